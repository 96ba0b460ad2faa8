//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/loopback"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// insidePort is where an application listens whose Envoy has its node's port.
const insidePort = 19080

// direct starts an agent on the host for whose workload nothing redirects.
func (m *mesh) direct(h *ground.Host, resource string, env ...string) *stage.Sidecar {
	m.t.Helper()
	return m.sidecar(h, stage.SidecarOptions{Resource: resource, Alone: true, Env: append([]string{"EVERMESH_INTERCEPTION=none"}, env...)})
}

// called makes the services' names resolve as they must without interception.
func (m *mesh) called(services ...string) {
	for _, s := range services {
		m.DNS().Set(s, loopback.Address(s))
	}
}

// TestWithoutInterception has workloads for which nothing redirects, each with one of the ways in which its application
// and its Envoy share the node's port, and one caller. The names of services resolve to loopback.
func TestWithoutInterception(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "bare", "DROP_ALL")
	logged := func(host *ground.Host, spec string) string {
		file := filepath.Join(m.Dir(), "run", host.Name(), "access.log")
		return strings.TrimSuffix(spec, "}") + fmt.Sprintf(`, "logging": {"accessLog": {"file": {"path": %q, "format": {"text": "%%PROTOCOL%% %%REQ(:AUTHORITY)%% %%DOWNSTREAM_LOCAL_ADDRESS%%\n"}}}}}`, file)
	}
	logOf := func(s *stage.Sidecar) string { return filepath.Join(m.Dir(), "run", s.Host.Name(), "access.log") }
	app := func(name, listen string, protocol string, port int) *ground.Host {
		h := m.host(name)
		if _, err := m.App(h, stage.App{Name: name, Listen: []string{listen}}); err != nil {
			t.Fatal(err)
		}
		m.create("VirtualNode", name, logged(h, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": %q}}],
			"serviceDiscovery": {"dns": {"hostname": %q}}}`, port, protocol, m.hostname(name))))
		return h
	}
	// Blue's application has another port than its node, green's the same on loopback; both are usual.
	ports := fmt.Sprintf("EVERMESH_APP_PORTS=%d:%d", appPort, insidePort)
	blueHost := app("blue", fmt.Sprintf(":%d", insidePort), "http", appPort)
	greenHost := app("green", fmt.Sprintf("127.0.0.1:%d", appPort), "http", appPort)
	dbHost := app("db", ":15432", "tcp", 5432)
	cacheHost := app("cache", ":15432", "tcp", 5432)
	blue := m.direct(blueHost, "blue", ports)
	green := m.direct(greenHost, "green", "EVERMESH_INGRESS_ADDRESS=auto")
	db, cache := m.direct(dbHost, "db", "EVERMESH_APP_PORTS=5432:15432"), m.direct(cacheHost, "cache", "EVERMESH_APP_PORTS=5432:15432")

	colors := m.service("colors", appPort, map[string]string{"rest": weighted("", "blue", 3, "green", 1)})
	shade := m.service("shade", appPort, map[string]string{"rest": to("green", `{"prefix": "/"}`)})
	late := m.service("late", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	low := m.service("low", 80, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	dbs, caches := m.hostname("dbs"), m.hostname("caches")
	for name, node := range map[string]string{dbs: "db", caches: "cache"} {
		m.create("VirtualService", name, fmt.Sprintf(`{"provider": {"virtualNode": {"virtualNodeName": %q}}}`, node))
	}
	m.called(colors, shade, late, low, dbs, caches)
	// The caller has a listener of its own on the port of its backends, as most have.
	callerHost := m.host("caller")
	spec := func(services ...string) string {
		own := fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": %q}}, `, appPort, m.hostname("caller"))
		return logged(callerHost, own+strings.TrimPrefix(callerSpec(services...), "{"))
	}
	arn := m.create("VirtualNode", "caller", spec(colors, shade, dbs, caches))
	if _, err := m.App(callerHost, stage.App{Name: "caller", Listen: []string{fmt.Sprintf(":%d", insidePort)}}); err != nil {
		t.Fatal(err)
	}
	caller := m.direct(callerHost, "caller", ports)
	m.settle(arn)
	url := func(name string, port int) string { return fmt.Sprintf("http://%s:%d/", name, port) }

	t.Run("no rule redirects anything, and nothing has a capability", func(t *testing.T) {
		for _, s := range []*stage.Sidecar{caller, blue, green, db, cache} {
			tools := 0
			for _, tool := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"nft", "list", "ruleset"}} {
				path, err := exec.LookPath(tool[0])
				if err != nil {
					continue
				}
				tools++
				rules, err := s.Host.Run(t.Context(), ground.Command{Path: path, Args: tool[1:]})
				if err != nil || strings.Contains(rules, "-A ") || strings.Contains(rules, "redirect") || strings.Contains(rules, "REDIRECT") {
					t.Errorf("%s on %s: %v\n%s", tool[0], s.Host.Name(), err, rules)
				}
			}
			if tools == 0 {
				t.Fatal("there is no tool that could show a rule")
			}
			if m.Owner().UID == 0 {
				continue // the namespace has one user, who may all
			}
			for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", s.Process.Pid()))) {
				if set, found := strings.CutPrefix(line, "CapEff:"); found && strings.Trim(set, "\t 0\n") != "" {
					t.Errorf("the agent on %s has capabilities %s", s.Host.Name(), set)
				}
			}
		}
	})
	t.Run("a request by name goes through both Envoys", func(t *testing.T) {
		a := ask(t, callerHost, request{URL: url(shade, appPort) + "by-name"})
		if a.App != "green" || a.Seen.Host != fmt.Sprintf("%s:%d", shade, appPort) || a.Seen.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms") == "" || a.Header.Get("X-Envoy-Upstream-Service-Time") == "" {
			t.Errorf("answered by %q as %+v with %v", a.App, a.Seen, a.Header)
		}
		for s, at := range map[*stage.Sidecar]netip.Addr{caller: loopback.Address(shade), green: greenHost.Addr()} {
			line := fmt.Sprintf("HTTP/1.1 %s:%d %s:%d\n", shade, appPort, at, appPort)
			m.until("the Envoy on "+s.Host.Name()+" logs it", func(context.Context) bool { return strings.Contains(read(t, logOf(s)), line) })
		}
	})
	t.Run("the agent tells where names are to resolve", func(t *testing.T) {
		want := ""
		for _, name := range []string{caches, colors, dbs, shade} {
			want += loopback.Address(name).String() + "\t" + name + "\n"
		}
		text, err := callerHost.Run(t.Context(), ground.Command{Name: "hosts", Path: m.Programs.Agent, Args: []string{"hosts"}, Env: []string{}})
		if err != nil || text != want {
			t.Errorf("%v: %q, want %q", err, text, want)
		}
	})
	t.Run("weights are obeyed", func(t *testing.T) {
		shares(t, callerHost, url(colors, appPort), map[string]float64{"blue": 0.75, "green": 0.25})
	})
	t.Run("two services by TCP have the same port", func(t *testing.T) {
		for service, want := range map[string]string{dbs: "db", caches: "cache"} {
			if got := reach(t, callerHost, url(service, 5432), ""); got != want {
				t.Errorf("%s is %s, want %s", service, got, want)
			}
		}
		if db, cache := m.stat(db, "tcp.ingress.downstream_cx_total"), m.stat(cache, "tcp.ingress.downstream_cx_total"); db == 0 || cache == 0 {
			t.Errorf("%d and %d connections came through the Envoys of db and cache", db, cache)
		}
	})
	t.Run("what is no backend is not answered, least of all by the application itself", func(t *testing.T) {
		for _, at := range []string{late, "127.200.1.2", "127.0.0.1"} {
			if got := reach(t, callerHost, url(at, appPort), ""); got != "closed" {
				t.Errorf("%s is answered: %s", at, got)
			}
		}
		if got := reach(t, callerHost, url(shade, appPort), "other.local"); got != "404" {
			t.Errorf("another host at a service's address: %s, want 404", got)
		}
		if got := reach(t, greenHost, url("127.200.1.2", appPort), ""); got != "closed" {
			t.Errorf("an address that nobody listens at is answered: %s", got)
		}
	})
	t.Run("a backend is added under load", func(t *testing.T) {
		s := stage.NewSteady(callerHost, url(colors, appPort), 4, 5*time.Millisecond)
		defer s.Stop()
		m.answers(t, s, 100)
		from := time.Now()
		m.settle(m.update("VirtualNode", "caller", spec(colors, shade, dbs, caches, late)))
		m.until("it is called", func(context.Context) bool { return reach(t, callerHost, url(late, appPort), "") == "blue" })
		m.answers(t, s, 500)
		lossless(t, "a backend added without interception", s.Count(from, time.Time{}))
	})
	t.Run("a port that Envoy may not bind harms no other, and is told", func(t *testing.T) {
		if m.Owner().UID == 0 {
			t.Log("the one user of the namespace may bind every port: another program has it")
			l, err := callerHost.Listen("tcp", netip.AddrPortFrom(loopback.Address(low), 80).String())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		m.update("VirtualNode", "caller", spec(colors, shade, dbs, caches, late, low))
		var told string
		m.until("explain tells it", func(ctx context.Context) bool {
			e, err := m.explain(ctx, arn)
			for _, p := range e.Proxies {
				for _, of := range p.Types {
					if of.Refusal != nil && of.Type == api.DiscoveryTypeListener {
						told = of.Refusal.Message
					}
				}
			}
			return err == nil && told != ""
		})
		if name := fmt.Sprintf("lds_egress_%s_80", loopback.Address(low)); !strings.Contains(told, name) || !strings.Contains(told, "cannot bind") {
			t.Errorf("what is told does not name %s: %s", name, told)
		}
		if got := reach(t, callerHost, url(shade, appPort), ""); got != "green" {
			t.Errorf("another service: %s", got)
		}
		if err := caller.KillEnvoy(); err != nil {
			t.Fatal(err)
		}
		m.until("an Envoy that starts with it serves the others, and is healthy", func(ctx context.Context) bool {
			text, err := page(ctx, callerHost, "http://127.0.0.1:9902/status")
			return err == nil && strings.Contains(text, `"healthStatus": "HEALTHY"`) && strings.Contains(text, `"envoyRestartCount": "1"`) &&
				reach(t, callerHost, url(shade, appPort), "") == "green"
		})
		m.update("VirtualRouter", "shade", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, appPort+1))
		m.until("a change after that is taken", func(context.Context) bool { return reach(t, callerHost, url(shade, appPort+1), "") == "green" })
		m.settle(m.update("VirtualNode", "caller", spec(colors, shade, dbs, caches, late)))
	})
	t.Run("mutual TLS by the mesh's identities", func(t *testing.T) {
		s := stage.NewSteady(callerHost, url(colors, appPort), 2, 5*time.Millisecond)
		defer s.Stop()
		from := time.Now()
		m.set(api.MeshSettings{Identity: api.IdentityStrict})
		m.until("both have handshakes", func(context.Context) bool {
			return m.stat(blue, fmt.Sprintf("listener.0.0.0.0_%d.ssl.handshake", appPort)) > 0 && m.stat(green, fmt.Sprintf("listener.%s_%d.ssl.handshake", greenHost.Addr(), appPort)) > 0
		})
		m.answers(t, s, 300)
		m.until("plaintext is refused", func(context.Context) bool {
			return reach(t, dbHost, url(m.hostname("blue"), appPort), "") == "closed" && reach(t, dbHost, url(m.hostname("green"), appPort), "") == "closed"
		})
		m.answers(t, s, 300)
		lossless(t, "identities turned on without interception", s.Count(from, time.Time{}))
		if got := reach(t, callerHost, url(dbs, 5432), ""); got != "db" {
			t.Errorf("by TCP: %s", got)
		}
		m.set(api.MeshSettings{})
	})
	t.Run("MESH-002 that DROP_ALL is not kept is told of the node and of its proxies", func(t *testing.T) {
		if got := reach(t, callerHost, url(dbHost.Addr().String(), 15432), ""); got != "db" {
			t.Errorf("past Envoy: %s", got)
		}
		ctx, cancel := m.context()
		defer cancel()
		e, err := m.explain(ctx, arn)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, p := range e.Problems {
			said = append(said, p.Reason)
		}
		if strings.Join(said, " ") != "Unenforced" {
			t.Errorf("problems %v", e.Problems)
		}
		for _, p := range e.Proxies {
			if !strings.Contains(strings.Join(p.Notes, " "), "without interception") {
				t.Errorf("the proxy's notes do not say it: %v", p.Notes)
			}
		}
	})
	t.Run("a replica of the same node that is redirected is as ever", func(t *testing.T) {
		h := m.host("other")
		if _, err := m.App(h, stage.App{Name: "other", Listen: []string{fmt.Sprintf(":%d", appPort)}}); err != nil {
			t.Fatal(err)
		}
		// The name has an address that is not loopback there, as in any mesh.
		m.DNS().Set(colors, nobody)
		defer m.called(colors)
		s := m.sidecar(h, stage.SidecarOptions{Resource: "caller", AppPorts: fmt.Sprint(appPort)})
		if got := reach(t, h, url(colors, appPort), ""); got != "blue" && got != "green" {
			t.Errorf("it is %s", got)
		}
		if got := reach(t, dbHost, url(h.Addr().String(), appPort), ""); got != "other" {
			t.Errorf("what comes to it: %s", got)
		}
		if text := m.admin(s, "/listeners"); !strings.Contains(text, "lds_egress_0.0.0.0_15001") || strings.Contains(text, "lds_egress_127.") {
			t.Errorf("its listeners are %s", text)
		}
		if text := m.admin(caller, "/listeners"); strings.Contains(text, "15001") || strings.Contains(text, "15000") {
			t.Errorf("the other's listeners are %s", text)
		}
	})
	t.Run("Envoy comes back as it was", func(t *testing.T) {
		if err := caller.KillEnvoy(); err != nil {
			t.Fatal(err)
		}
		m.until("it serves again", func(ctx context.Context) bool {
			a, err := send(ctx, callerHost, request{URL: url(late, appPort)})
			return err == nil && a.Status == http.StatusOK && a.App == "blue"
		})
	})
}

// page is what a host gets from a page of its own.
func page(ctx context.Context, h *ground.Host, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	c := h.Client()
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// TestWithoutInterceptionAllowAll is about what is no backend, where everything may be called.
func TestWithoutInterceptionAllowAll(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "barefree", "ALLOW_ALL")
	m.app("blue")
	outside := m.program("outside")
	shop := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.called(shop)
	arn := m.create("VirtualNode", "caller", callerSpec(shop))
	host := m.host("caller")
	s := m.direct(host, "caller")
	m.settle(arn)
	at := fmt.Sprintf("http://%s:%d/", shop, appPort)
	if got := reach(t, host, at, ""); got != "blue" {
		t.Errorf("the service is %s", got)
	}
	before := m.stat(s, "http.egress.downstream_rq_total")
	if got := reach(t, host, fmt.Sprintf("http://%s:%d/", outside.Addr(), appPort), ""); got != "outside" {
		t.Errorf("what is outside is %s", got)
	}
	if after := m.stat(s, "http.egress.downstream_rq_total"); after != before {
		t.Errorf("%d requests to the outside went through Envoy", after-before)
	}
	if got := reach(t, host, at, "other.local"); got != "503" {
		t.Errorf("another host at the service's address: %s, want 503, and not Envoy calling itself", got)
	}
	ctx, cancel := m.context()
	defer cancel()
	e, err := m.explain(ctx, arn)
	if err != nil || len(e.Problems) > 0 {
		t.Errorf("%v: problems %v", err, e.Problems)
	}
}

// TestWithoutInterceptionIPv6 has nodes that are reached by IPv6 alone, with Envoy on all addresses and on one. What the
// caller sends goes to IPv4's loopback, as ever.
func TestWithoutInterceptionIPv6(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "baresix", "DROP_ALL")
	services := []string{}
	hosts := map[string]*ground.Host{}
	for name, listen := range map[string]int{"all": insidePort, "own": appPort} {
		h := m.host(name)
		if !h.Addr6().IsValid() {
			t.Skip("this machine has no IPv6")
		}
		env := fmt.Sprintf("EVERMESH_APP_PORTS=%d:%d", appPort, insidePort)
		if name == "own" {
			env = "EVERMESH_INGRESS_ADDRESS=" + h.Addr6().String()
		}
		m.DNS().Set(m.hostname(name), h.Addr6())
		if _, err := m.App(h, stage.App{Name: name, Listen: []string{fmt.Sprintf("[::1]:%d", listen)}}); err != nil {
			t.Fatal(err)
		}
		m.create("VirtualNode", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}],
			"serviceDiscovery": {"dns": {"hostname": %q, "ipPreference": "IPv6_ONLY"}}}`, appPort, m.hostname(name)))
		m.direct(h, name, env)
		services = append(services, m.service("to-"+name, appPort, map[string]string{"rest": to(name, `{"prefix": "/"}`)}))
		hosts[name] = h
	}
	m.called(services...)
	arn := m.create("VirtualNode", "caller", callerSpec(services...))
	caller := m.host("caller")
	m.direct(caller, "caller")
	m.settle(arn)
	for name := range hosts {
		if got := reach(t, caller, fmt.Sprintf("http://%s:%d/", m.hostname("to-"+name), appPort), ""); got != name {
			t.Errorf("%s is %s", name, got)
		}
	}
	for _, at := range []string{"[::1]", "127.0.0.1", "127.200.1.2"} {
		if got := reach(t, hosts["all"], fmt.Sprintf("http://%s:%d/", at, appPort), ""); got != "closed" {
			t.Errorf("a workload's own port at %s is %s, want it closed", at, got)
		}
	}
}

// TestWithoutInterceptionDrains stops one of two replicas while requests are under way.
func TestWithoutInterceptionDrains(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "bareend", "DROP_ALL")
	hostname, sidecars := m.hostname("blue"), []*stage.Sidecar{}
	var addresses []netip.Addr
	m.create("VirtualNode", "blue", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": %q, "responseType": "ENDPOINTS"}}}`, appPort, hostname))
	for _, name := range []string{"one", "two"} {
		h := m.host(name)
		if _, err := m.App(h, stage.App{Name: name, Listen: []string{fmt.Sprintf("127.0.0.1:%d", insidePort)}}); err != nil {
			t.Fatal(err)
		}
		sidecars = append(sidecars, m.direct(h, "blue", fmt.Sprintf("EVERMESH_APP_PORTS=%d:%d", appPort, insidePort)))
		addresses = append(addresses, h.Addr())
	}
	m.DNS().Set(hostname, addresses...)
	shop := m.service("shop", appPort, map[string]string{"rest": `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "blue", "weight": 1}]},
		"retryPolicy": {"maxRetries": 0, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["server-error"]}}}`})
	m.called(shop)
	arn := m.create("VirtualNode", "caller", callerSpec(shop))
	host := m.host("caller")
	m.direct(host, "caller")
	m.settle(arn)
	s := stage.NewSteady(host, fmt.Sprintf("http://%s:%d/", shop, appPort), 4, 5*time.Millisecond)
	defer s.Stop()
	m.reaches(t, s, "one", "two")
	from := time.Now()
	m.DNS().Set(hostname, addresses[1]) // as whatever runs the replicas does
	ctx, cancel := m.context()
	defer cancel()
	if err := sidecars[0].Process.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	m.reaches(t, s, "two")
	lossless(t, "a replica stopped without interception", s.Count(from, time.Time{}))
}
