package envoy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/testenv"
)

const (
	failHeader    = "X-Envoy-Immediate-Health-Check-Fail"
	checkedHeader = "X-Envoy-Upstream-Healthchecked-Cluster"
)

// answerTo is the head of the answer to a request to an Envoy of the lab.
func answerTo(t *testing.T, at netip.Addr, port int, path string, headers map[string]string) http.Header {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://checked.local:%d%s", port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(at, uint16(port)).String())
	}}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s at %v: %s", path, at, resp.Status)
	}
	return resp.Header
}

// The header by which a proxy fails the checks of its clients acts at the first hop, and
// goes no further; an application cannot set it, and nobody outside learns what a check is
// answered with.
func TestHeadersOfOneHop(t *testing.T) {
	t.Parallel()
	for _, binary := range validators(t) {
		t.Run(envoytest.Version(t, binary), func(t *testing.T) {
			t.Parallel()
			l := newTLSLab(t, binary, "hop_headers")
			servers, front, gateway := l.servers(t), l.client(t, "front"), l.client(t, "ingress")
			const cluster = "cds_egress_colors_checked_http_9080::"
			failed := func(p *proxy) bool {
				for line := range strings.Lines(p.page("/clusters")) {
					if strings.HasPrefix(line, cluster) && strings.Contains(line, "::health_flags::") {
						return !strings.Contains(line, "::health_flags::healthy")
					}
				}
				return false
			}
			clients := map[string]*proxy{"node": front, "gateway": gateway}
			port := map[string]int{"node": 9080, "gateway": 8080}
			for name, p := range clients {
				testenv.Eventually(t, name+" has checked", func() bool {
					return p.stat(t, "cluster.cds_egress_colors_checked_http_9080.health_check.success") == 1 && !failed(p)
				})
			}

			said := map[string]string{"x-fail": "true"} // the application does
			if got := answerTo(t, l.nodes["checked"], 9080, "/", said); got.Get(failHeader) != "" {
				t.Errorf("the application's header comes out of its proxy: %v", got)
			}
			check := map[string]string{"user-agent": "Envoy/HC"}
			if got := answerTo(t, l.nodes["checked"], 9080, "/ping", check); got.Get(checkedHeader) == "" {
				t.Errorf("the answer to a check is that of any request: %v", got)
			}
			for name, p := range clients {
				if got := answerTo(t, p.address, port[name], "/ping", check); got.Get(checkedHeader) != "" {
					t.Errorf("%s tells what is behind it: %v", name, got)
				}
				if answerTo(t, p.address, port[name], "/", said); failed(p) {
					t.Errorf("%s believes an application", name)
				}
			}

			resp, err := servers.admin.Post("http://admin/healthcheck/fail", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := answerTo(t, l.nodes["checked"], 9080, "/", nil); got.Get(failHeader) != "true" {
				t.Errorf("a proxy that fails its checks does not say so: %v", got)
			}
			for name, p := range clients {
				if got := answerTo(t, p.address, port[name], "/", nil); got.Get(failHeader) != "" {
					t.Errorf("%s passes it on: %v", name, got)
				}
				testenv.Eventually(t, name+" has read it", func() bool { return failed(p) })
			}
		})
	}
}
