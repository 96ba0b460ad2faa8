package simulate_test

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/evermesh/evermesh/internal/simulate"
)

// TestFactsOfTargets shows what an outcome tells of clusters beside where they
// are: checks, ejection, limits, discovery.
func TestFactsOfTargets(t *testing.T) {
	const (
		watched = "VN-013_VN-016_health_and_outliers virtualNode/front"
		pools   = "EMS-042_VN-010_VN-011_connection_pools virtualNode/front"
		queried = "VN-030_cloud_map virtualNode/front"
		onlyV6  = "MESH-006_ip_IPv6_ONLY virtualNode/front"
	)
	for _, test := range []struct {
		name, of, line string
		inbound        bool
		want           []string
	}{
		{"an http check on a port of its own, and ejection", watched, "http://a.local:9080/", false, []string{
			"a.local:9080 by DNS (IPv6, else IPv4), every address",
			"  an endpoint is left alone for 30s after 5 errors, looked at every 10s, at most 50 % of them",
			"  checked by http a.local:9080/ping on port 9090 every 5s within 2s, 2 to be healthy, 3 not to be",
		}},
		{"an http2 check, one address at a time", watched, "http://b.local:9081/", false, []string{
			"b.local:9081 by DNS (IPv6, else IPv4), one address at a time, by HTTP/2", "  checked by http2 b.local:9081/ every 5s",
		}},
		{"a grpc check", watched, "grpc://c.local:9082/a.B/C", false, []string{"  checked by grpc every 5s"}},
		{"endpoints of Cloud Map", queried, "http://many.local:9080/", false, []string{"many of example in cloudmap: 10.0.0.1:9080, by HTTP/2", "  checked by http2 many.example:9080/ping every 5s"}},
		{"with attributes", queried, "http://split.local:9080/", false, []string{"split of example in cloudmap with version=v1: 10.0.0.1:9080", "unknown of example in cloudmap with version=v2"}},
		{"the application by IPv6", onlyV6, "http://any:8080/", true, []string{"goes to cds_ingress_colors_front_http_8080: [::1]:8080, connected within 250ms"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := simulate.Parse(test.line)
			if err != nil {
				t.Fatal(err)
			}
			if test.inbound {
				r.Direction = simulate.Inbound
			}
			o, err := read(t, configOf(t, test.of)).Send(r)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(o.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, o)
				}
			}
		})
	}
	t.Run("limits of the application", func(t *testing.T) {
		p := read(t, configOf(t, pools))
		for port, want := range map[uint16]simulate.Limits{
			8080: {Connections: 10, Pending: 5}, 8081: {Connections: 11}, 8082: {Requests: 12}, 8083: {Requests: 13}, 8084: {Connections: 14},
		} {
			o, err := p.Send(simulate.Request{Direction: simulate.Inbound, Destination: toPort(port), Authority: "any"})
			if err != nil || len(o.Targets) != 1 || o.Targets[0].Limits != want {
				t.Errorf("port %d: got %v, %v, want %+v", port, o, err, want)
			}
		}
	})
	t.Run("what Envoy has where a cluster says nothing", func(t *testing.T) {
		c := configOf(t, front)
		for _, m := range c.Clusters {
			m.CircuitBreakers, m.ConnectTimeout, m.OutlierDetection = nil, nil, &clusterv3.OutlierDetection{}
		}
		o, err := read(t, c).Send(web("/metrics", "").request)
		if err != nil {
			t.Fatal(err)
		}
		if want := ", connected within 5s, at most 1024 connections, at most 1024 waiting requests, at most 1024 requests, at most 3 retries\n" +
			"  an endpoint is left alone for 30s after 5 errors, looked at every 10s, at most 10 % of them\n"; !strings.Contains(o.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, o)
		}
	})
}
