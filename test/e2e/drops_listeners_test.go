//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// listeners is a node whose listeners change while a client of it never stops, and some of the client's requests last
// for nine seconds. The node's proxy reaches the control plane through a gate.
type listeners struct {
	*mesh
	server, client *stage.Sidecar
	host           *ground.Host // the client's
	gate           *stage.Gate
	url            string
	steady         *stage.Steady
	slow           []*slow
}

// long is how long a slow request lasts.
const long = 9 * time.Second

func newListeners(t *testing.T) *listeners {
	t.Helper()
	m := newMesh(t, "turns", "DROP_ALL")
	l := &listeners{mesh: m}
	h := m.host("server")
	if _, err := m.App(h, stage.App{Name: "server", Listen: []string{":9080", ":9081"}}); err != nil {
		t.Fatal(err)
	}
	m.create("VirtualNode", "server", l.spec(listener(9080, "")))
	service := m.service("shop", appPort, map[string]string{"r": weighted(noRetry, "server", 1)})
	m.create("VirtualNode", "client", callerSpec(service))
	var err error
	if l.gate, err = stage.NewGate(m.Home(), fmt.Sprintf("%s:0", m.Home().Addr()), m.control.XDSAddr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.gate.End)
	xds := strings.Replace(m.control.XDS, m.control.XDSAddr, l.gate.Addr, 1)
	l.server = m.sidecar(h, stage.SidecarOptions{Resource: "server", AppPorts: "9080,9081", Env: []string{
		"APPMESH_XDS_ENDPOINT=" + xds, "LISTENER_DRAIN_WAIT_TIME_S=20", // longer than requests last, as the agent's default is
	}})
	l.host = m.host("client")
	l.client = m.sidecar(l.host, stage.SidecarOptions{Resource: "client"})
	l.url = fmt.Sprintf("http://%s:%d/", service, appPort)
	l.steady = stage.NewSteady(l.host, l.url, 4, 5*time.Millisecond)
	t.Cleanup(l.steady.Stop)
	return l
}

func listener(port int, more string) string {
	return fmt.Sprintf(`{"portMapping": {"port": %d, "protocol": "http"}%s}`, port, more)
}

func (l *listeners) spec(listeners ...string) string {
	return fmt.Sprintf(`{"listeners": [%s], "serviceDiscovery": {"dns": {"hostname": %q}}}`, strings.Join(listeners, ", "), l.hostname("server"))
}

// become gives the node other listeners while slow requests are under way, and waits until its proxies and its clients
// have them.
func (l *listeners) become(t *testing.T, listeners ...string) (took time.Duration) {
	t.Helper()
	l.slow = append(l.slow, l.slowly(t, l.host, l.url, 4, long, l.server.Host))
	began := time.Now()
	l.settle(l.update("VirtualNode", "server", l.spec(listeners...)))
	took = time.Since(began)
	t.Logf("it took %v", took.Round(time.Millisecond))
	return took
}

// row prints the row of what do changes, with the slow requests that were under way.
func (l *listeners) row(t *testing.T, change string, do func()) {
	t.Helper()
	from, others := time.Now(), l.slow
	l.slow = nil
	defer func() { l.slow = others }()
	do()
	l.answers(t, l.steady, 100)
	all := stage.Tally{Faults: map[string]int{}, ByApp: map[string]int{}}
	for _, s := range l.slow {
		add(&all, s.wait(t))
	}
	t.Logf("of the requests that took long, up to %v, %d of %d failed", all.Slowest.Round(time.Millisecond), all.Failed, all.Requests)
	add(&all, l.steady.Count(from, time.Time{}))
	dropped(t, change, all)
}

// arrive waits until the application sees requests arrive at the port.
func (l *listeners) arrive(t *testing.T, port int) {
	t.Helper()
	l.until(fmt.Sprintf("requests arrive at port %d", port), func(context.Context) bool { return ask(t, l.host, request{URL: l.url}).Seen.Port == port })
}

func TestListenersChangeUnderTraffic(t *testing.T) {
	t.Parallel()
	l := newListeners(t)
	l.answers(t, l.steady, 100)
	t.Run("EMS-052 a port changes", func(t *testing.T) {
		l.row(t, "port change of a node", func() {
			l.become(t, listener(9081, ""))
			l.arrive(t, 9081)
		})
	})
	t.Run("VN-006 RT-007 EMS-052 a listener comes beside another, whose place it takes", func(t *testing.T) {
		l.row(t, "port change of a node, named by its route", func() {
			l.row(t, "listener added beside another", func() {
				l.slow = append(l.slow, l.slowly(t, l.host, l.url, 4, long, l.server.Host))
				// The route names the port before the node's proxies have it.
				node := l.update("VirtualNode", "server", l.spec(listener(9081, ""), listener(9080, "")))
				l.settle(node, l.put("Update", "Route", "shop", "r", strings.Replace(weighted(noRetry, "server", 1), `"weight": 1`, `"weight": 1, "port": 9080`, 1)))
				l.arrive(t, 9080)
				l.until("statistics have the new names", func(context.Context) bool {
					return l.stat(l.server, "http.ingress.http.9080.downstream_rq_2xx") > 0
				})
			})
			l.become(t, listener(9080, ""))
		})
	})
	files := filepath.Join(l.Dir(), "run", "turns-certificates")
	if err := os.MkdirAll(files, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := sdstest.NewAuthority(t, "turns")
	chain, key := filepath.Join(files, "server.pem"), filepath.Join(files, "server.key")
	place(t, ca.Issue(t, l.hostname("server")), chain, key)
	secure := func(mode string) string {
		return listener(9080, fmt.Sprintf(`, "tls": {"mode": %q, "certificate": {"file": {"certificateChain": %q, "privateKey": %q}}}`, mode, chain, key))
	}
	handshakes := "cluster.cds_egress_turns_server_http_9080.ssl.handshake"
	visitor := l.mesh.host("visitor")
	modes := func(t *testing.T, change string, modes ...string) {
		l.row(t, change, func() {
			for _, mode := range modes {
				l.gate.Hold()
				held, release := time.Now(), time.AfterFunc(3*time.Second, l.gate.Release)
				l.become(t, secure(mode))
				if took := time.Since(held); took < 2500*time.Millisecond {
					t.Errorf("%s was there after %v, and the node's proxy did not hear of it for 3 s", mode, took)
				}
				release.Stop()
				want := "server"
				if mode == "STRICT" {
					want = "closed"
				}
				l.until(mode+": a request without TLS is "+want, func(context.Context) bool {
					return reach(t, visitor, fmt.Sprintf("http://%s:9080/", l.hostname("server")), "") == want
				})
				l.until(mode+": the client speaks TLS, or did", func(context.Context) bool { return l.stat(l.client, handshakes) > 0 })
			}
		})
	}
	t.Run("VN-035 TLS-001 TLS is turned on", func(t *testing.T) {
		modes(t, "TLS off, PERMISSIVE, STRICT; the node's proxies 3 s late", "PERMISSIVE", "STRICT")
	})
	t.Run("TLS-024 a certificate is replaced", func(t *testing.T) {
		l.row(t, "certificate rotation, files", func() {
			for n := range 3 {
				next := ca.Issue(t, l.hostname("server"))
				place(t, next, chain, key)
				l.until("the new certificate is shown", func(ctx context.Context) bool {
					conn, err := visitor.Dial(ctx, "tcp", l.hostname("server")+":9080")
					if err != nil {
						return false
					}
					defer conn.Close()
					// It looks at what is shown, and verifies nothing.
					secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
					return secure.HandshakeContext(ctx) == nil && secure.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(next.Pair(t).Leaf.SerialNumber) == 0
				})
				// More at a time than ever before: the client's proxy needs new connections.
				before := l.stat(l.client, handshakes)
				many := l.hold(t, l.host, l.url, 16*(n+1), l.server.Host)
				l.slow = append(l.slow, many)
				many.release(t)
				if after := l.stat(l.client, handshakes); after == before {
					t.Error("no connection was made with the new certificate")
				}
			}
		})
	})
	t.Run("VN-034 EMS-052 TLS is turned off", func(t *testing.T) {
		modes(t, "TLS STRICT, PERMISSIVE, off; the node's proxies 3 s late", "PERMISSIVE", "DISABLED")
	})
	l.steady.Stop()
	lossless(t, "all of these changes", l.steady.Count(time.Time{}, time.Time{}))
	l.unrepeated(t, l.client)
}

// place puts a certificate where another may be, one file after the other, each by renaming.
func place(t *testing.T, c sdstest.Certificate, chain, key string) {
	t.Helper()
	for path, text := range map[string][]byte{chain: c.Chain, key: c.Key} {
		// Envoy is another user.
		if err := os.WriteFile(path+".new", text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}
