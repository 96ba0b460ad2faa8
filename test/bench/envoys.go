//go:build linux

package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// handFiles are Envoy configurations written by hand, with what a sidecar needs for what its node calls and serves,
// and nothing else: what a generated one is held against.
//
//go:embed testdata/*.yaml
var handFiles embed.FS

// object is a part of an Envoy configuration in JSON or YAML.
type object = map[string]any

// byHand is a configuration of handFiles; services are the names that many.yaml is executed with.
func byHand(name string, services ...string) (object, error) {
	form, err := template.ParseFS(handFiles, "testdata/"+name+".yaml")
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := form.Execute(&text, services); err != nil {
		return nil, err
	}
	var out object
	if err := yaml.Unmarshal(text.Bytes(), &out); err != nil {
		return nil, fmt.Errorf("read testdata/%s.yaml: %w", name, err)
	}
	return out, nil
}

// generated is a bundle as an Envoy of its own reads it.
func generated(b *envoy.Bundle) (object, error) {
	text, err := b.Static("bench", "bench")
	if err != nil {
		return nil, err
	}
	var out object
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("read a generated configuration: %w", err)
	}
	return object{"static_resources": out["static_resources"]}, nil
}

const envoyAdmin = 9901

// envoyOf is an Envoy on a host of its own.
type envoyOf struct {
	*ground.Process
	host  *ground.Host
	admin *http.Client
}

// runEnvoy runs an Envoy with one worker and waits until it serves. Everything but its listeners, clusters and secrets
// is the same for all.
func (r *rig) runEnvoy(ctx context.Context, h *ground.Host, config object) (*envoyOf, error) {
	bootstrap := object{
		"node":             object{"id": "bench", "cluster": "bench"},
		"admin":            object{"address": socketAddress("127.0.0.1", envoyAdmin)},
		"static_resources": config["static_resources"],
	}
	if mark := r.Owner().Mark; mark != 0 { // so that its own connections are not redirected
		bootstrap["cluster_manager"] = object{"upstream_bind_config": object{"socket_options": []any{
			object{"level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND"},
		}}}
	}
	text, err := json.Marshal(bootstrap)
	if err != nil {
		return nil, fmt.Errorf("write a bootstrap: %w", err)
	}
	name := r.name("envoy")
	file := filepath.Join(r.Dir(), "run", name+".json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, fmt.Errorf("write a bootstrap: %w", err)
	}
	p, err := h.Start(ground.Command{
		Name: name, Path: r.Programs.Envoy, UID: r.Owner().UID,
		Args: []string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"},
	})
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, p)
	e := &envoyOf{Process: p, host: h, admin: h.Client()}
	e.admin.Timeout = patience
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = stage.Until(ctx, "Envoy on "+h.Name()+" is live", func(ctx context.Context) bool {
		select {
		case <-p.Done():
			cancel() // it does not come back
			return false
		default:
		}
		text, err := e.page(ctx, "/ready")
		return err == nil && strings.TrimSpace(string(text)) == "LIVE"
	})
	if err != nil {
		log, _ := os.ReadFile(p.Log()) // for the error's text alone
		return nil, fmt.Errorf("%w: %.2000s", err, log)
	}
	return e, nil
}

func socketAddress(address string, port int) object {
	return object{"socket_address": object{"address": address, "port_value": port}}
}

// page is a page of the Envoy's administration interface.
func (e *envoyOf) page(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", envoyAdmin, path), nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.admin.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Envoy for %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("ask Envoy for %s: %s", path, resp.Status)
	}
	return text, err
}

// sum adds the Envoy's counters whose names match.
func (e *envoyOf) sum(ctx context.Context, names string) (sum int, err error) {
	text, err := e.page(ctx, "/stats?usedonly&filter="+url.QueryEscape(names))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		_, number, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return 0, fmt.Errorf("read Envoy's counters: %w", err)
		}
		sum += n
	}
	return sum, nil
}

// redirect sends what the host sends and receives through its Envoy, as the agent's init container does; appPorts is
// as in APPMESH_APP_PORTS, or "".
func (r *rig) redirect(ctx context.Context, h *ground.Host, appPorts string) error {
	env := append([]string{
		"PATH=" + os.Getenv("PATH"), "APPMESH_START_ENABLED=1", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_ENVOY_INGRESS_PORT=15000",
	}, r.Owner().Env()...)
	if appPorts != "" {
		env = append(env, "APPMESH_APP_PORTS="+appPorts)
	}
	_, err := h.Run(ctx, ground.Command{Name: "intercept", Path: r.Programs.Agent, Args: []string{"intercept"}, Env: env})
	return err
}

// hosts makes hosts on the ground, or says why the figure is not to be had.
func (r *rig) hosts(figureName string, names ...string) (out []*ground.Host, instead []figure) {
	for _, name := range names {
		h, err := r.Host(name)
		if err != nil {
			return nil, []figure{{name: figureName, ours: "–", note: "Not measured: " + err.Error()}}
		}
		out = append(out, h)
	}
	return out, nil
}
