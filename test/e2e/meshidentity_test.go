//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// underLoad sends requests without end through a client's proxy, and through a gateway, and none may fail. more has
// both make connections that are new, when no proxy drains: what nobody has used since a drain began does not know of it,
// and so many requests at once take it.
type underLoad struct {
	m      *mesh
	sides  map[string]*stage.Sidecar
	loads  []*stage.Steady
	hosts  []*ground.Host
	urls   []string
	start  time.Time
	bursts int
}

// from begins a load. It is such that two processors carry it beside those of other tests: an Envoy gives a new connection a
// second for TCP and TLS.
func (u *underLoad) from(h *ground.Host, url string) {
	u.hosts, u.urls = append(u.hosts, h), append(u.urls, url)
	u.loads = append(u.loads, stage.NewSteady(h, url, 3, 10*time.Millisecond))
}

func (u *underLoad) more(t *testing.T) {
	t.Helper()
	for name, s := range u.sides {
		u.m.until("nothing drains on "+name, func(context.Context) bool {
			return u.m.stat(s, "listener_manager.total_listeners_draining")+u.m.stat(s, "listener_manager.total_filter_chains_draining") == 0
		})
	}
	u.bursts += 3 // more at once than ever before: some of them have no connection yet
	for i, h := range u.hosts {
		var slow []func(*testing.T) answer
		for range u.bursts {
			slow = append(slow, later(t, h, request{URL: u.urls[i], Header: map[string]string{"X-Delay": "100ms"}}))
		}
		for _, wait := range slow {
			if a := wait(t); a.Status != http.StatusOK {
				t.Errorf("a request on a new connection: %d %s", a.Status, a.Body)
			}
		}
	}
	ctx, cancel := u.m.context()
	defer cancel()
	for _, s := range u.loads {
		if err := s.Wait(ctx, time.Now(), 100); err != nil {
			t.Fatal(err)
		}
	}
}

// end stops the load and returns how many requests there were, and how many failed.
func (u *underLoad) end(t *testing.T) (failed, requests int) {
	t.Helper()
	for i, s := range u.loads {
		tally := s.Count(u.start, time.Time{})
		t.Logf("%s: %d of %d requests failed %v", u.urls[i], tally.Failed, tally.Requests, tally.Faults)
		if tally.Failed > 0 {
			t.Errorf("%d of %d requests failed: %v", tally.Failed, tally.Requests, tally.Faults)
		}
		s.Stop()
		failed, requests = failed+tally.Failed, requests+tally.Requests
	}
	return failed, requests
}

// set replaces the mesh's settings.
func (m *mesh) set(settings api.MeshSettings) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	in := map[string]any{"meshName": m.name}
	if settings.Identity != "" {
		in["identity"] = settings.Identity
	}
	if len(settings.IdentityAuthorities) > 0 {
		in["identityAuthorities"] = settings.IdentityAuthorities
	}
	if err := m.control.Evermesh.Call(ctx, "UpdateMeshSettings", in, nil); err != nil {
		m.t.Fatal(err)
	}
}

// TestIdentitiesOfAMesh turns mutual TLS on throughout a mesh, changes who issues its identities, and turns it off, while
// requests never stop.
func TestIdentitiesOfAMesh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "badges", "DROP_ALL")
	servers, sidecars := []string{"green", "blue"}, map[string]*stage.Sidecar{}
	for _, name := range servers {
		h := m.app(name)
		sidecars[name] = m.sidecar(h, stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
	}
	books := m.service("books", appPort, map[string]string{
		"rest": `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "green", "weight": 1}, {"virtualNode": "blue", "weight": 1}]}, "retryPolicy": {"maxRetries": 0, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["server-error"]}}}`,
	})
	client := m.create("VirtualNode", "client", callerSpec(books))
	m.create("VirtualGateway", "front", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	gate := m.put("Create", "GatewayRoute", "front", "all", toService(books, `{"prefix": "/"}`, ""))
	caller, front, stranger := m.host("client"), m.host("front"), m.host("stranger")
	sidecars["client"] = m.sidecar(caller, stage.SidecarOptions{Resource: "client"})
	sidecars["front"] = m.sidecar(front, stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true})
	m.settle(client, gate)

	u := &underLoad{m: m, sides: sidecars, start: time.Now()}
	u.from(caller, fmt.Sprintf("http://%s:%d/", books, appPort))
	u.from(stranger, fmt.Sprintf("http://%s:8088/", m.hostname("front")))
	u.more(t)
	plain := func(name string) bool {
		ctx, cancel := m.context()
		defer cancel()
		a, err := send(ctx, stranger, request{URL: fmt.Sprintf("http://%s:%d/", m.hostname(name), appPort)})
		return err == nil && a.Status == http.StatusOK
	}
	everywhere := func(what string, done func(name string) bool) {
		t.Helper()
		began := time.Now()
		m.until(what, func(context.Context) bool { return done("green") && done("blue") })
		t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond))
	}
	certificates := func(name string) string { return m.admin(sidecars[name], "/certs") }

	t.Run("it is turned on without a lost request, and strangers are refused", func(t *testing.T) {
		if !plain("green") {
			t.Fatal("a node without TLS refuses a stranger")
		}
		m.set(api.MeshSettings{Identity: api.IdentityStrict})
		everywhere("plaintext is refused", func(name string) bool { return !plain(name) })
		u.more(t)
		for _, name := range servers {
			const listener = "listener.0.0.0.0_15000.ssl."
			handshakes, without := m.stat(sidecars[name], listener+"handshake"), m.stat(sidecars[name], listener+"no_certificate")
			t.Logf("%s: %d handshakes, %d without a certificate", name, handshakes, without)
			if handshakes == 0 || without > 0 {
				t.Errorf("%s: %d handshakes, %d without a certificate", name, handshakes, without)
			}
		}
		id := "spiffe://" + m.control.Account + "/mesh/" + m.name + "/"
		for name, want := range map[string]string{"green": id + "virtualNode/green", "client": id + "virtualNode/client", "front": id + "virtualGateway/front"} {
			if text := certificates(name); !strings.Contains(text, want) {
				t.Errorf("%s has not the identity %s: %s", name, want, text)
			}
		}
		if text := certificates("green"); !strings.Contains(text, m.hostname("green")) {
			t.Errorf("the identity lacks the name in discovery: %s", text)
		}
	})
	t.Run("who issues them is replaced, and nothing fails", func(t *testing.T) {
		before := map[string]string{}
		for _, name := range servers {
			before[name] = chainIn(certificates(name))
		}
		for i, list := range [][]string{{"built-in", "built-in/2"}, {"built-in/2", "built-in"}, {"built-in/2"}} {
			m.set(api.MeshSettings{Identity: api.IdentityStrict, IdentityAuthorities: list})
			want := []int{2, 2, 1}[i] // authorities that are trusted
			everywhere(fmt.Sprintf("%v are trusted", list), func(name string) bool {
				return authoritiesIn(certificates(name)) == want
			})
			if i == 1 {
				everywhere("certificates are of the new one", func(name string) bool {
					now := chainIn(certificates(name))
					return now != "" && now != before[name]
				})
			}
			u.more(t)
		}
	})
	t.Run("a node that says otherwise of TLS goes its own way", func(t *testing.T) {
		m.update("VirtualNode", "green", m.nodeWith("green", `, "tls": {"mode": "DISABLED", "certificate": {"file": {"certificateChain": "/nowhere.pem", "privateKey": "/nowhere.key"}}}`))
		m.until("green takes plaintext", func(context.Context) bool { return plain("green") })
		if plain("blue") {
			t.Error("the other one takes plaintext, too")
		}
		u.more(t)
		m.update("VirtualNode", "green", m.nodeSpec("green"))
		m.until("green takes none", func(context.Context) bool { return !plain("green") })
		u.more(t)
	})
	t.Run("it is turned off without a lost request", func(t *testing.T) {
		m.set(api.MeshSettings{IdentityAuthorities: []string{"built-in/2"}})
		everywhere("plaintext is taken", plain)
		u.more(t)
	})
	failed, requests := u.end(t)
	t.Logf("drops: identities of a mesh turned on, issued by another authority, turned off: %d of %d requests failed", failed, requests)
}

// authoritiesIn is how many authorities Envoy's page of certificates has, each once.
func authoritiesIn(page string) int {
	serials := map[string]bool{}
	for _, part := range strings.Split(page, `"ca_cert"`)[1:] {
		part, _, _ = strings.Cut(part, `"cert_chain"`)
		for _, s := range strings.Split(part, `"serial_number": "`)[1:] {
			serial, _, _ := strings.Cut(s, `"`)
			serials[serial] = true
		}
	}
	return len(serials)
}

// chainIn is the serial number of the first certificate with a key on Envoy's page.
func chainIn(page string) string {
	_, chain, _ := strings.Cut(page, `"cert_chain"`)
	_, chain, _ = strings.Cut(chain, `"serial_number": "`)
	serial, _, _ := strings.Cut(chain, `"`)
	return serial
}
