package envoy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// tlsStep is what the server's listener and the client's backend say of TLS.
type tlsStep struct{ server, client string }

const (
	serverCertificate = `certificate: {file: {certificateChain: /certs/blue.pem, privateKey: /certs/blue.key}}`
	serverTrust       = `, validation: {trust: {file: {certificateChain: /certs/ca.pem}}, subjectAlternativeNames: {match: {exact: [front.local]}}}`
	clientTrust       = `validation: {trust: {file: {certificateChain: /certs/ca.pem}}}`
	clientCertificate = `certificate: {file: {certificateChain: /certs/front.pem, privateKey: /certs/front.key}}, `
)

// bundles are those of front and blue at a step.
func (s tlsStep) bundles(t *testing.T, o *envoy.Builder, before map[string]*envoy.Bundle) map[string]*envoy.Bundle {
	t.Helper()
	text := fmt.Sprintf(`
- {mesh: colors, settings: {defaultRetry: "OFF"}}
- kind: virtualNode
  name: front
  spec: {backends: [{virtualService: {virtualServiceName: blue.local%s}}]}
- {kind: virtualService, name: blue.local, spec: {provider: {virtualNode: {virtualNodeName: blue}}}}
- kind: virtualNode
  name: blue
  spec: {listeners: [{portMapping: {port: 9080, protocol: http}%s}], serviceDiscovery: {dns: {hostname: blue.local}}}
`, s.client, s.server)
	snapshot, out := mesh.NewSnapshot(1, envoytest.Parse(t, "step", []byte(text))), map[string]*envoy.Bundle{}
	for _, name := range []string{"front", "blue"} {
		view, problems, _ := snapshot.View(mesh.Client{Key: keyOf(api.KindVirtualNode, "", name)})
		b, more := o.Build(view, before[name])
		// On the way, clients take any certificate (TLS-016).
		more = slices.DeleteFunc(more, mesh.Problem.Remark)
		if len(problems)+len(more) > 0 {
			t.Fatal(problems, more)
		}
		out[name] = b
	}
	return out
}

// TestTLSTurnsOn brings a service from plaintext to mutual TLS, and from TLS to
// mutual TLS, in the order that App Mesh's guide gives, under load without any
// retry. No request fails, also of those that take long.
func TestTLSTurnsOn(t *testing.T) {
	t.Parallel()
	server := func(mode, rest string) string { return ", tls: {mode: " + mode + ", " + serverCertificate + rest + "}" }
	client := func(text string) string { return ", clientPolicy: {tls: {" + text + clientTrust + "}}" }
	for name, steps := range map[string][]tlsStep{
		"MTLS-009 VN-034 from plaintext: PERMISSIVE, mutual, the clients, STRICT": {
			{"", ""},
			{server("PERMISSIVE", ""), ""},
			{server("PERMISSIVE", serverTrust), client(clientCertificate)},
			{server("STRICT", serverTrust), client(clientCertificate)},
		},
		"MTLS-010 from TLS: the clients' certificates, then the server's trust": {
			{server("STRICT", ""), client("")},
			{server("STRICT", ""), client(clientCertificate)},
			{server("STRICT", serverTrust), client(clientCertificate)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newTLSLab(t, testenv.Envoy(t), "traffic_tls")
			l.nodes = map[string]netip.Addr{"blue": l.nodes["strict"]}
			l.certificate("blue", l.root.Issue(t, "blue.local"))
			l.certificate("front", l.root.Issue(t, "front.local"))
			l.secret("file-trust:/certs/ca.pem", sdstest.Certificate{}, l.root)
			builder := &envoy.Builder{}
			l.of = steps[0].bundles(t, builder, nil)
			servers, front := l.servers(t), l.client(t, "front")
			load := startLoad(t, netip.AddrPortFrom(front.address, 9080))
			for i, step := range steps[1:] {
				next := step.bundles(t, builder, l.of)
				// In turns, as the guide has it: the server offers, then its clients use it.
				// What the server stops to take comes after what its clients stop to send.
				first, second := l.turnServer, l.turnClient
				if strings.HasPrefix(name, "MTLS-010") && i == 0 {
					first, second = second, first
				}
				first(t, servers, front, next)
				load.some(t)
				second(t, servers, front, next)
				load.some(t)
				l.of = next
			}
			total, failed := load.stop()
			t.Logf("%d requests, %d failed", total, len(failed))
			if len(failed) > 0 {
				t.Errorf("%d of %d requests failed, such as: %s", len(failed), total, failed[0])
			}
			if n := servers.stat(t, "listener.blue.ssl.handshake") - servers.stat(t, "listener.blue.ssl.no_certificate"); n == 0 {
				t.Error("no client has shown a certificate")
			}
			if replaced := servers.stat(t, "listener_manager.listener_modified") - servers.stat(t, "listener_manager.listener_in_place_updated"); replaced != 0 {
				t.Errorf("%d listeners were replaced as a whole", replaced)
			}
		})
	}
}

// turnServer gives the server its listener, and waits until it is in place.
func (l *tlsLab) turnServer(t *testing.T, servers, _ *proxy, to map[string]*envoy.Bundle) {
	t.Helper()
	const name = "lds_ingress_0.0.0.0_15000"
	if l.of["blue"].List(envoy.Listener).Get(name) == to["blue"].List(envoy.Listener).Get(name) {
		return
	}
	before := servers.stat(t, "listener_manager.listener_modified")
	bundle := l.of["blue"]
	l.of["blue"] = to["blue"]
	servers.ads.PutResource(t, "blue", l.inbound(t, "blue", l.nodes["blue"]))
	l.of["blue"] = bundle
	testenv.Eventually(t, "the server has its listener", func() bool {
		return servers.stat(t, "listener_manager.listener_modified") > before && servers.stat(t, "listener_manager.total_listeners_warming") == 0
	})
}

// turnClient gives the client its cluster, and waits until it is in place.
func (l *tlsLab) turnClient(t *testing.T, _, front *proxy, to map[string]*envoy.Bundle) {
	t.Helper()
	const name = "cds_egress_colors_blue_http_9080"
	now := to["front"].List(envoy.Cluster).Get(name)
	if l.of["front"].List(envoy.Cluster).Get(name) == now {
		return
	}
	before := front.stat(t, "cluster_manager.cluster_modified")
	front.ads.PutResource(t, name, l.toServers(t, now, front))
	testenv.Eventually(t, "the client has its cluster", func() bool {
		return front.stat(t, "cluster_manager.cluster_modified") > before && front.stat(t, "cluster_manager.warming_clusters") == 0
	})
}

// tlsLoad is requests without end, which nobody repeats: quick ones, and some
// that take a second.
type tlsLoad struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	total  atomic.Int64
	slow   atomic.Int64
	mu     sync.Mutex
	failed []string
}

func startLoad(t *testing.T, to netip.AddrPort) *tlsLoad {
	ctx, cancel := context.WithCancel(context.Background())
	l := &tlsLoad{cancel: cancel}
	transport := &http.Transport{MaxIdleConnsPerHost: 16, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	}}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	for i := range 8 {
		l.all.Go(func() {
			for ctx.Err() == nil {
				l.one(client, i < 4)
			}
		})
	}
	t.Cleanup(func() {
		l.stop()
		transport.CloseIdleConnections()
	})
	return l
}

// one is a POST with a body, which Go does not send again either.
func (l *tlsLoad) one(client *http.Client, slow bool) {
	req, _ := http.NewRequest(http.MethodPost, "http://blue.local:9080/", strings.NewReader("body"))
	if slow {
		req.Header.Set("x-wait", "1s")
	}
	resp, err := client.Do(req)
	l.total.Add(1)
	if slow {
		l.slow.Add(1)
	}
	what := fmt.Sprint(err)
	if err == nil {
		text, readErr := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK && readErr == nil {
			return
		}
		what = fmt.Sprint(resp.StatusCode, " ", string(text), " ", readErr)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, what)
}

// some waits until requests of both kinds have begun and ended since.
func (l *tlsLoad) some(t *testing.T) {
	t.Helper()
	total, slow := l.total.Load(), l.slow.Load()
	testenv.Eventually(t, "requests have come and gone", func() bool { return l.total.Load() > total+200 && l.slow.Load() > slow+4 })
}

// stop ends the load. It says how many requests there were, and how those that
// failed did.
func (l *tlsLoad) stop() (total int64, failed []string) {
	l.cancel()
	l.all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total.Load(), l.failed
}
