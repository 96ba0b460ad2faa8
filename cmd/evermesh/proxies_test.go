package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
)

// proxy is a connected Envoy with one status for each given type.
func proxy(node, instance string, state api.ProxyState, types ...api.TypeStatus) api.Proxy {
	return api.Proxy{
		ResourceARN: "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/" + node, Instance: instance, State: state,
		ConnectedAt: api.Timestamp{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, Dialect: api.DialectDelta,
		EnvoyVersion: new("1.40.0"), Replica: "r1", Types: types,
	}
}

func status(t api.DiscoveryType, accepted, wanted string) api.TypeStatus {
	s := api.TypeStatus{Type: t}
	if accepted != "" {
		s.Accepted = &accepted
	}
	if wanted != "" {
		s.Wanted = &wanted
	}
	return s
}

func refused(t api.DiscoveryType, accepted, wanted, message string) api.TypeStatus {
	s := status(t, accepted, wanted)
	s.Refusal = &api.Refusal{At: api.Timestamp{Time: time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC)}, Message: message, Version: wanted}
	return s
}

func TestPrintProxies(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	web := proxy("web", "i-1", api.ProxyStateRefused,
		status(api.DiscoveryTypeCluster, "0123456789abcdef", "0123456789abcdef"),
		refused(api.DiscoveryTypeListener, "aaaaaaaaaaaa", "bbbbbbbbbbbb", "duplicate listener\n  0.0.0.0:15001"),
		status(api.DiscoveryTypeRoute, "cccccccccccc", "dddddddddddd"))
	web.Notes = []string{"its routes went out after 30s of silence"}
	leaving := proxy("web", "i-3", api.ProxyStateCurrent)
	leaving.DrainingSince, leaving.Addresses = &leaving.ConnectedAt, []string{"10.0.0.1", "10.0.0.2"}
	err := printProxies(&out, api.ListProxiesOutput{Proxies: []api.Proxy{web, proxy("api-with-a-long-name", "i-22", api.ProxyStatePending), leaving}})
	if err != nil {
		t.Fatal(err)
	}
	want := `RESOURCE                                    INSTANCE  STATE     CLUSTERS  ENDPOINTS  LISTENERS            ROUTES               ENVOY   CONNECTED             REPLICA
mesh/shop/virtualNode/web                   i-1       REFUSED   01234567  -          aaaaaaaa ! bbbbbbbb  cccccccc > dddddddd  1.40.0  2026-03-01T12:00:00Z  r1
mesh/shop/virtualNode/api-with-a-long-name  i-22      PENDING   -         -          -                    -                    1.40.0  2026-03-01T12:00:00Z  r1
mesh/shop/virtualNode/web                   i-3       DRAINING  -         -          -                    -                    1.40.0  2026-03-01T12:00:00Z  r1
mesh/shop/virtualNode/web instance i-1 refused its listener configuration bbbbbbbb at 2026-03-01T12:00:01Z: duplicate listener 0.0.0.0:15001
mesh/shop/virtualNode/web instance i-1: its routes went out after 30s of silence
mesh/shop/virtualNode/web instance i-3 has drained since 2026-03-01T12:00:00Z: its clients are not sent 10.0.0.1, 10.0.0.2
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVersionCell(t *testing.T) {
	t.Parallel()
	const one, two = "11111111aaaa", "22222222bbbb"
	tests := []struct {
		name   string
		status api.TypeStatus
		want   string
	}{
		{"current", status(api.DiscoveryTypeRoute, one, one), "11111111"},
		{"nothing wanted", status(api.DiscoveryTypeRoute, one, ""), "11111111"},
		{"first one on its way", status(api.DiscoveryTypeRoute, "", two), "- > 22222222"},
		{"next one on its way", status(api.DiscoveryTypeRoute, one, two), "11111111 > 22222222"},
		{"first one refused", refused(api.DiscoveryTypeRoute, "", two, "no"), "- ! 22222222"},
		{"next one refused", refused(api.DiscoveryTypeRoute, one, two, "no"), "11111111 ! 22222222"},
		{"another type", status(api.DiscoveryTypeCluster, one, two), "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := versionOf(proxy("web", "i", api.ProxyStateCurrent, tt.status), api.DiscoveryTypeRoute); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	steps := []api.Rollout{
		{ResourceARN: "arn:aws:appmesh:us-east-1:000000000000:mesh/shop", ResourceVersion: 2, ProxiesAffected: 12, ProxiesAccepted: 3, ReplicasTotal: 2},
		{ResourceARN: "arn:aws:appmesh:us-east-1:000000000000:mesh/shop", ResourceVersion: 2, ProxiesAffected: 12, ProxiesAccepted: 3, ReplicasTotal: 2},
		{ResourceARN: "arn:aws:appmesh:us-east-1:000000000000:mesh/shop", ResourceVersion: 2, ProxiesAffected: 1, ProxiesAccepted: 1, ReplicasTotal: 2, ReplicasApplied: 2},
	}
	for _, tt := range []struct {
		name    string
		rewrite bool
		want    string
	}{
		{
			"a line for each change", false,
			"mesh/shop version 2: 3 of 12 proxies accepted, 0 of 2 replicas current\n" +
				"mesh/shop version 2: 1 of 1 proxy accepted, 2 of 2 replicas current\n",
		},
		{
			"one line that is rewritten, to its end", true,
			"\rmesh/shop version 2: 3 of 12 proxies accepted, 0 of 2 replicas current" +
				"\rmesh/shop version 2: 1 of 1 proxy accepted, 2 of 2 replicas current   \n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			p := progress{w: &out, rewrite: tt.rewrite}
			for _, s := range steps {
				p.show(s)
			}
			p.end()
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
