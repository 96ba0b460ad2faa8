package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// resolver asks as a program of the host does, of the name server in its resolv.conf, through the host's network.
func resolver(h *ground.Host) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: h.Dial}
}

// TestCapturedQueries has a workload call a virtual service whose name only the mesh's name server knows, which nobody told
// the workload about.
func TestCapturedQueries(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "captured", "DROP_ALL")
	ctx, cancel := m.context()
	defer cancel()
	const name = "orders.captured" // not of a zone that the ground's name server passes on
	m.app("server")
	m.create("VirtualService", name, `{"provider": {"virtualNode": {"virtualNodeName": "server"}}}`)
	m.create("VirtualNode", "client", callerSpec(name))
	host := m.host("client")
	env := append([]string{
		"PATH=" + os.Getenv("PATH"), "APPMESH_START_ENABLED=1", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_ENVOY_INGRESS_PORT=15000",
		"APPMESH_XDS_ENDPOINT=" + m.control.XDS,
	}, m.Owner().Env()...)
	run := func(env []string, args ...string) string {
		t.Helper()
		out, err := host.Run(ctx, ground.Command{Name: "intercept", Path: m.Programs.Agent, Args: append([]string{"intercept"}, args...), Env: env})
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	run(env)
	o := stage.SidecarOptions{Resource: "client", Alone: true}
	if m.Owner().Mark != 0 {
		o.Env = m.Owner().Env()
	}
	m.sidecar(host, o)
	look := func() (string, error) {
		addrs, err := resolver(host).LookupHost(ctx, name)
		return strings.Join(addrs, " "), err
	}
	t.Run("without capture the name is not known", func(t *testing.T) {
		got, err := look()
		if unknown, ok := errors.AsType[*net.DNSError](err); !ok || !unknown.IsNotFound {
			t.Errorf("got %q, %v", got, err)
		}
	})
	captured := append(env, "EVERMESH_DNS_CAPTURE="+netip.AddrPortFrom(m.Home().Addr(), meshDNSPort).String())
	run(captured)
	t.Run("with it the name has the address of virtual services, and a request reaches the service", func(t *testing.T) {
		if err := stage.Until(ctx, "the name has it", func(context.Context) bool { got, err := look(); return err == nil && got == "10.10.10.10" }); err != nil {
			got, why := look()
			t.Fatalf("%v: got %q, %v", err, got, why)
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return host.Dial(ctx, network, net.JoinHostPort("10.10.10.10", port))
		}}}
		defer client.CloseIdleConnections()
		if err := stage.Until(ctx, "the service answers", func(ctx context.Context) bool {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/", name, appPort), nil)
			if err != nil {
				return false
			}
			answer, err := client.Do(r)
			if err != nil {
				return false
			}
			defer answer.Body.Close()
			return answer.StatusCode == http.StatusOK
		}); err != nil {
			t.Error(err)
		}
	})
	t.Run("--check proves it, and that Envoy's own way to the control plane is open", func(t *testing.T) {
		out := run(captured, "--check")
		for _, want := range []string{"ok       egress IPv4: ", "ok       control plane: ", "ok       DNS IPv4: "} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
	t.Run("removed, the name is unknown again", func(t *testing.T) {
		run(nil, "--remove")
		if got, err := look(); err == nil {
			t.Errorf("got %q", got)
		}
	})
}
