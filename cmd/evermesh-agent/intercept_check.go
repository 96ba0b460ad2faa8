package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/intercept/probe"
)

// checkRules is evermesh-agent intercept --check: it prints a line for each proof.
func checkRules(ctx context.Context, backends []intercept.Backend, getenv func(string) string, stdout io.Writer) error {
	cfg, err := intercept.Parse(getenv)
	if err != nil {
		return err
	}
	failed := 0
	for _, p := range probe.Prove(ctx, cfg, probe.Options{Backends: backends, ControlPlane: endpoints(getenv("APPMESH_XDS_ENDPOINT"))}) {
		fmt.Fprintln(stdout, p)
		if p.Outcome == probe.Failed {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("interception does not work: %d proofs failed", failed)
	}
	return nil
}

// endpoints are the control plane's as host:port, as the agent reads them; sockets are left out, which no rule touches.
func endpoints(list string) []string {
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" || strings.HasPrefix(item, "unix://") || strings.HasPrefix(item, "xds+unix://") {
			continue
		}
		port := "443"
		if rest, plain := strings.CutPrefix(item, "http://"); plain {
			item, port = rest, "80"
		}
		item, _, _ = strings.Cut(strings.TrimPrefix(item, "https://"), "/")
		if _, _, err := net.SplitHostPort(item); err != nil {
			item = net.JoinHostPort(strings.Trim(item, "[]"), port)
		}
		out = append(out, item)
	}
	return out
}
