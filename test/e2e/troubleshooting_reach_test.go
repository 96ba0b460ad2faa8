//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// longer gives a spec with an HTTP route, or a node with one listener, a time of 40 s for a request.
func longer(spec string) string {
	const timeout = `"timeout": {"perRequest": {"unit": "s", "value": 40}}`
	if strings.Contains(spec, `"httpRoute": {`) {
		return strings.Replace(spec, `"httpRoute": {`, `"httpRoute": {`+timeout+`, `, 1)
	}
	return strings.Replace(spec, `"http"}`, `"http"}, "timeout": {"http": `+strings.TrimPrefix(timeout, `"timeout": `)+`}`, 1)
}

// TestUnreachable has what App Mesh's guide says of services that are not reached.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "unreached", "ALLOW_ALL")
	blue := m.program("blue")
	m.create("VirtualNode", "blue", longer(m.nodeSpec("blue")))
	usual := m.app("usual")
	shop := m.service("shop", appPort, map[string]string{"rest": longer(to("blue", `{"prefix": "/"}`))})
	short := m.service("short", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	half := m.service("half", appPort, map[string]string{"rest": longer(to("usual", `{"prefix": "/"}`))})
	unlisted := m.service("unlisted", appPort, map[string]string{"rest": longer(to("blue", `{"prefix": "/"}`))})
	m.DNS().Set(unlisted, blue.Addr())
	named := m.service("named", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	empty, gone, direct := m.hostname("empty"), m.hostname("gone"), m.hostname("direct")
	for _, name := range []string{empty, gone, direct} {
		m.DNS().Set(name, nobody)
	}
	m.create("VirtualService", empty, `{}`)
	m.create("VirtualService", direct, `{"provider": {"virtualNode": {"virtualNodeName": "blue"}}}`)
	node := m.create("VirtualNode", "client", callerSpec(shop, short, half, named, empty, gone, direct))
	client := m.host("client")
	s := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	m.sidecar(usual, stage.SidecarOptions{Resource: "usual", AppPorts: fmt.Sprint(appPort)})
	url := func(name string) string { return fmt.Sprintf("http://%s:%d/", name, appPort) }
	slow := map[string]func(*testing.T) answer{}
	for _, name := range []string{shop, short, half, unlisted} {
		delay := "1h" // what is to be ended is not answered before
		if name == shop {
			delay = "16s"
		}
		slow[name] = later(t, client, request{URL: url(name), Header: map[string]string{"X-Delay": delay}})
	}

	t.Run("TRBL-006 a service's name must resolve, to anything but loopback", func(t *testing.T) {
		m.DNS().Remove(named)
		ctx, cancel := m.context()
		defer cancel()
		_, err := send(ctx, client, request{URL: url(named)})
		if unknown, ok := errors.AsType[*net.DNSError](err); !ok || !unknown.IsNotFound {
			t.Errorf("without a record: %v", err)
		}
		m.DNS().Set(named, netip.MustParseAddr("127.0.0.1"))
		if got := reach(t, client, url(named), ""); got != "closed" {
			t.Errorf("at 127.0.0.1, which is not intercepted: %s, want closed", got)
		}
		m.DNS().Set(named, netip.MustParseAddr("10.10.10.10"))
		if got := reach(t, client, url(named), ""); got != "blue" {
			t.Errorf("at 10.10.10.10: %s, want blue", got)
		}
	})
	t.Run("TRBL-007 an application whose proxy is not wired gets no answer, and no 503", func(t *testing.T) {
		bare := m.host("bare")
		if got := reachWithin(t, 5*time.Second, bare, url(short), ""); got != "closed" && got != "silent" {
			t.Errorf("without a proxy: %s", got)
		}
		m.sidecar(bare, stage.SidecarOptions{Resource: "client"})
		if got := reach(t, bare, url(short), ""); got != "blue" {
			t.Errorf("with its proxy: %s, want blue", got)
		}
	})
	t.Run("TRBL-008 a service without a provider answers 503", func(t *testing.T) {
		if got := reach(t, client, url(empty), ""); got != "503" {
			t.Errorf("%s, want 503", got)
		}
	})
	t.Run("TRBL-008 what is not in the mesh goes to mesh-allow-all, by a name that is not qualified or not there", func(t *testing.T) {
		m.DNS().Set("shop", m.host("empty-handed").Addr()) // as a search list finds it; nobody listens there
		const passing = "cluster.cds_egress_unreached_mesh-allow-all.upstream_cx_connect_fail"
		before := m.stat(s, passing)
		if got := reach(t, client, url("shop"), ""); got != "503" {
			t.Errorf("a name that is not qualified: %s, want 503", got)
		}
		m.DNS().Set(gone, m.host("gone").Addr())
		if got := reach(t, client, url(gone), ""); got != "503" {
			t.Errorf("a service that is not there: %s, want 503", got)
		}
		if after := m.stat(s, passing); after < before+2 {
			t.Errorf("%s was %d and is %d", passing, before, after)
		}
		if problems := m.explanation(t, node).Problems; len(problems) == 0 || problems[0].Reason != "NotFound" || !strings.Contains(problems[0].Message, gone) {
			t.Errorf("the node's problems are %v, want that %s is not there", problems, gone)
		}
	})
	t.Run("TRBL-013 a node as provider has one retry policy for all; a router has one's own", func(t *testing.T) {
		failing := func(id string) int {
			return ask(t, client, request{URL: url(direct), Header: map[string]string{"X-Fail": id + ",3"}}).Status
		}
		if got := failing("node"); got != http.StatusServiceUnavailable {
			t.Errorf("by its node: %d, want 503 after the default's tries", got)
		}
		m.create("VirtualRouter", "direct", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, appPort))
		m.route("direct", "all", strings.Replace(to("blue", `{"prefix": "/"}`), `}]}}`, `}]}, "retryPolicy": {"maxRetries": 3, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["gateway-error"]}}`, 1))
		m.settle(m.update("VirtualService", direct, `{"provider": {"virtualRouter": {"virtualRouterName": "direct"}}}`))
		if got := failing("router"); got != http.StatusOK {
			t.Errorf("by a router whose route tries three times more: %d, want 200", got)
		}
	})
	for name, c := range map[string]struct {
		service string
		status  int
		least   time.Duration
	}{
		"TRBL-017 VN-019 a time that route and listener have":               {shop, http.StatusOK, 16 * time.Second},
		"TRBL-017 one that the listener alone has ends after 15 s":          {short, http.StatusGatewayTimeout, 15 * time.Second},
		"EMS-060 TRBL-017 one of a service that is no backend ends so, too": {unlisted, http.StatusGatewayTimeout, 15 * time.Second},
		"TRBL-017 so does one that the route alone has":                     {half, http.StatusGatewayTimeout, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, slow[c.service](t), c.status, c.least)
		})
	}
}

// explanation is what became of a resource.
func (m *mesh) explanation(t *testing.T, arn string) api.Explanation {
	t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	var out api.ExplainOutput
	if err := m.control.Evermesh.Call(ctx, "Explain", map[string]any{"resourceArn": arn}, &out); err != nil {
		t.Fatal(err)
	}
	return out.Explanation
}

// TestServerFirst has servers that speak first, as databases do, in the ways to reach them that the guide has.
func TestServerFirst(t *testing.T) {
	t.Parallel()
	const mysql, nfs = 3306, 2049
	const strayed = "listener.0.0.0.0_15001.no_filter_chain_match" // connections under DROP_ALL that are no backend's
	open := newMesh(t, "first-open", "ALLOW_ALL")
	m := newMesh(t, "first", "DROP_ALL")
	server := m.host("database")
	for _, port := range []int{mysql, nfs} {
		stop, err := server.Greet(fmt.Sprintf(":%d", port), "5.7.31\n")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	m.create("VirtualNode", "database", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, mysql, m.hostname("database")))
	service := m.hostname("db")
	m.DNS().Set(service, nobody)
	m.create("VirtualService", service, `{"provider": {"virtualNode": {"virtualNodeName": "database"}}}`)
	m.create("VirtualNode", "modelled", callerSpec(service))
	for _, of := range []*mesh{m, open} {
		of.create("VirtualNode", "alone", `{}`)
	}
	// once is what a connection says, and after what time.
	once := func(t *testing.T, h *ground.Host, addr string) (text string, took time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		began := time.Now()
		conn, err := h.Dial(ctx, "tcp", addr)
		if err != nil {
			return err.Error(), time.Since(began)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(conn)
		if len(said) == 0 && err != nil {
			return err.Error(), time.Since(began)
		}
		return string(said), time.Since(began)
	}
	hears := func(t *testing.T, h *ground.Host, name string, port int, want bool) {
		t.Helper()
		addr := fmt.Sprintf("%s:%d", name, port)
		text, took := once(t, h, addr)
		// A busy machine may be late once, and in a row seldom; who waits for the client to speak is late each time.
		for n := 0; want && n < 4 && took > 2*time.Second; n++ {
			text, took = once(t, h, addr)
		}
		if want != (text == "5.7.31\n") || want && took > 2*time.Second {
			t.Errorf("%s says %q after %v", addr, text, took)
		}
	}
	t.Run("EMS-037 TRBL-011 a backend that speaks first is heard at once", func(t *testing.T) {
		h := m.host("modelled")
		m.sidecar(h, stage.SidecarOptions{Resource: "modelled"})
		hears(t, h, service, mysql, true)
	})
	t.Run("TRBL-011 EMS-036 so is one that is not modelled, under ALLOW_ALL", func(t *testing.T) {
		h := open.host("alone")
		open.sidecar(h, stage.SidecarOptions{Resource: "alone"})
		hears(t, h, m.hostname("database"), mysql, true)
	})
	alone := m.host("alone")
	m.sidecar(alone, stage.SidecarOptions{Resource: "alone"})
	t.Run("TRBL-011 TRBL-014 under DROP_ALL it is closed without a word", func(t *testing.T) {
		hears(t, alone, m.hostname("database"), mysql, false)
		hears(t, alone, m.hostname("database"), nfs, false)
	})
	t.Run("TRBL-011 TRBL-014 unless its port is left out of interception", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		left := m.host("left-out")
		if _, err := left.Run(ctx, ground.Command{Name: "intercept", Path: m.Programs.Agent, Args: []string{"intercept"}, Env: append([]string{
			"PATH=" + os.Getenv("PATH"), "APPMESH_START_ENABLED=1", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_ENVOY_INGRESS_PORT=15000",
			fmt.Sprintf("APPMESH_EGRESS_IGNORED_PORTS=%d,%d", mysql, nfs),
		}, m.Owner().Env()...)}); err != nil {
			t.Fatal(err)
		}
		o := stage.SidecarOptions{Resource: "alone", Alone: true}
		if m.Owner().Mark != 0 {
			o.Env = m.Owner().Env()
		}
		s := m.sidecar(left, o)
		before := m.stat(s, strayed)
		hears(t, left, m.hostname("database"), mysql, true)
		hears(t, left, m.hostname("database"), nfs, true)
		if n := m.stat(s, strayed); n != before {
			t.Errorf("Envoy got %d connections, want %d: they were not left out", n, before)
		}
		if got := reach(t, left, fmt.Sprintf("http://%s:4444/", m.hostname("database")), ""); got != "closed" || m.stat(s, strayed) == before {
			t.Errorf("another port: %s; was it intercepted?", got)
		}
	})
}
