package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// effectCase is a change of a node or gateway.
type effectCase struct {
	name          string
	kind          api.Kind
	before, after string
	drains        bool
	want          []string
}

func effectCases() []effectCase {
	node := func(listeners, more string) string {
		return `{"listeners":[` + listeners + `],"serviceDiscovery":{"dns":{"hostname":"n.local"}}` + more + `}`
	}
	on8080 := func(more string) string { return `{"portMapping":{"port":8080,"protocol":"http"}` + more + `}` }
	mode := func(mode string) string {
		return `,"tls":{"mode":"` + mode + `","certificate":{"file":{"certificateChain":"/c.pem","privateKey":"/k.pem"}}}`
	}
	logged := func(path string) string { return `,"logging":{"accessLog":{"file":{"path":"` + path + `"}}}` }
	return []effectCase{
		{
			"a second listener renames the statistics of the first", api.KindVirtualNode,
			node(on8080(""), ""), node(on8080("")+`,{"portMapping":{"port":9090,"protocol":"grpc"}}`, ""), true,
			[]string{"connections to port 8080 in plaintext are drained: the names of statistics change", "statistics are renamed: http.ingress becomes http.ingress.http.8080"},
		},
		{
			"a third listener leaves the others alone", api.KindVirtualNode,
			node(on8080("")+`,{"portMapping":{"port":9090,"protocol":"grpc"}}`, ""),
			node(on8080("")+`,{"portMapping":{"port":9090,"protocol":"grpc"}},{"portMapping":{"port":9091,"protocol":"grpc"}}`, ""), false, nil,
		},
		{
			"another port", api.KindVirtualNode,
			node(on8080(""), ""), node(`{"portMapping":{"port":9090,"protocol":"http"}}`, ""), true,
			[]string{"connections to port 8080 in plaintext are drained: nothing takes them any more"},
		},
		{
			"another protocol", api.KindVirtualNode,
			node(on8080(""), ""), node(`{"portMapping":{"port":8080,"protocol":"http2"}}`, ""), true,
			[]string{"connections to port 8080 in plaintext are drained: the route configuration changes"},
		},
		{
			"an access log", api.KindVirtualNode,
			node(on8080(""), ""), node(on8080(""), logged("/dev/null")), true,
			[]string{
				"connections to port 443 for *.amazonaws.com are drained: the access log changes", // what the application sends
				"connections to port 8080 in plaintext are drained: the access log changes",
			},
		},
		{"a timeout, which is in the routes", api.KindVirtualNode, node(on8080(""), ""), node(on8080(`,"timeout":{"http":{"perRequest":{"unit":"s","value":3}}}`), ""), false, nil},
		{"TLS beside plaintext", api.KindVirtualNode, node(on8080(""), ""), node(on8080(mode("PERMISSIVE")), ""), false, nil},
		{
			"TLS alone", api.KindVirtualNode,
			node(on8080(mode("PERMISSIVE")), ""), node(on8080(mode("STRICT")), ""), true,
			[]string{"connections to port 8080 in plaintext are drained: nothing takes them any more"},
		},
		{
			"whom it trusts", api.KindVirtualNode,
			node(on8080(mode("STRICT")), ""),
			node(on8080(`,"tls":{"mode":"STRICT","certificate":{"file":{"certificateChain":"/c.pem","privateKey":"/k.pem"}},"validation":{"trust":{"file":{"certificateChain":"/ca.pem"}}}}`), ""), true,
			[]string{"connections to port 8080 by TLS are drained: the TLS changes"},
		},
		{
			"a port of which Envoy must not wait for the first bytes", api.KindVirtualNode,
			node(on8080("")+`,{"portMapping":{"port":3306,"protocol":"tcp"}}`, ""),
			node(on8080("")+`,{"portMapping":{"port":3307,"protocol":"tcp"}}`, ""), true,
			[]string{"all its connections are drained: Envoy replaces the listener, as the way to look at what comes in changes"},
		},
		{
			"the idle timeout of TCP, which is in the listener", api.KindVirtualNode,
			node(`{"portMapping":{"port":3306,"protocol":"tcp"}}`, ""),
			node(`{"portMapping":{"port":3306,"protocol":"tcp"},"timeout":{"tcp":{"idle":{"unit":"s","value":5}}}}`, ""), true,
			[]string{"connections to port 3306 in plaintext are drained: the idle timeout changes"},
		},
		{
			"the last listener", api.KindVirtualNode,
			node(on8080(""), ""), `{}`, true,
			[]string{"all its connections are drained: the listener goes"},
		},
		{
			"a gateway's second listener", api.KindVirtualGateway,
			`{"listeners":[{"portMapping":{"port":8088,"protocol":"http"}}]}`,
			`{"listeners":[{"portMapping":{"port":8088,"protocol":"http"}},{"portMapping":{"port":8089,"protocol":"http"}}]}`, true,
			[]string{"connections to port 8088 in plaintext are drained: the names of statistics change", "statistics are renamed: http.ingress becomes http.ingress.http.8088"},
		},
	}
}

// on is the mesh of the case before it, and the plan of its change.
func (c effectCase) on(t testing.TB) (*mesh.Snapshot, plan.Result) {
	t.Helper()
	s := mesh.NewSnapshot(1, []*api.Resource{made(t, api.KindMesh, "", "m", `{}`), made(t, c.kind, "", "x", c.before)})
	now := made(t, c.kind, "", "x", c.after)
	r, err := plan.On(t.Context(), s, mesh.Quotas{}, []plan.Change{{Key: now.Key, Now: now}})
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

// A plan says what a change of a node or gateway does to its connections and its
// statistics, in words.
func TestEffects(t *testing.T) {
	t.Parallel()
	for _, c := range effectCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, r := c.on(t)
			var got []string
			drains := false
			for _, p := range r.Proxies {
				for _, x := range p.Configurations {
					got, drains = append(got, x.Effects...), drains || x.Drains
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" || drains != c.drains {
				t.Errorf("drains is %v (-want +got)\n%s", drains, diff)
			}
		})
	}
}
