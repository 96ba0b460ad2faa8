package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func TestGuidesAdvice(t *testing.T) {
	t.Parallel()
	const (
		outside = "the mesh's egressFilter is DROP_ALL, so that with TLS, as without, nothing outside of the mesh is reached but names under amazonaws.com on port 443: " +
			"model other hosts as virtual services and list them as backends, or set ALLOW_ALL"
		certificate = `{"file": {"certificateChain": "/c", "privateKey": "/k"}}`
		trust       = `{"tls": {"validation": {"trust": {"file": {"certificateChain": "/ca"}}}}}`
		entitled    = "it demands TLS of backends, so that their proxies, as its own, need proxy authorization: " +
			"allow each role appmesh:StreamAggregatedResources on the virtual nodes alone that its proxies are of, rather than on *"
		pattern = `{"httpRoute": {"match": {"path": {"regex": "^/prefix$suffix)"}}, "action": {"weightedTargets": [{"virtualNode": "gone", "weight": 1}]}}}`
	)
	node := func(tls string) string {
		return `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}` + tls + `}]}`
	}
	for _, c := range []struct {
		name, filter string
		kind         api.Kind
		spec, want   string
	}{
		{"TLS-029 a node with TLS under DROP_ALL", "DROP_ALL", api.KindVirtualNode, node(`, "tls": {"mode": "STRICT", "certificate": ` + certificate + `}`), outside},
		{"TLS-029 which is the default", "", api.KindVirtualNode, node(`, "tls": {"mode": "PERMISSIVE", "certificate": ` + certificate + `}`), outside},
		{"TLS-029 VN-039 one with a policy for all its backends", "", api.KindVirtualNode, `{"backendDefaults": {"clientPolicy": ` + trust + `}}`, outside + "\n" + entitled},
		{"TLS-029 VN-039 one with a policy for a backend", "", api.KindVirtualNode, `{"backends": [{"virtualService": {"virtualServiceName": "a", "clientPolicy": ` + trust + `}}]}`, outside + "\n" + entitled},
		{"VN-039 a node with a policy of TLS under ALLOW_ALL", "ALLOW_ALL", api.KindVirtualNode, `{"backendDefaults": {"clientPolicy": ` + trust + `}}`, entitled},
		{"a node with TLS under ALLOW_ALL has none", "ALLOW_ALL", api.KindVirtualNode, node(`, "tls": {"mode": "STRICT", "certificate": ` + certificate + `}`), ""},
		{"a node without TLS has none", "DROP_ALL", api.KindVirtualNode, node(""), ""},
		{"nor has one whose TLS is off", "DROP_ALL", api.KindVirtualNode, node(`, "tls": {"mode": "DISABLED", "certificate": ` + certificate + `}`), ""},
		{
			"TRBL-036 a group that should look ahead", "", api.KindRoute, strings.Replace(pattern, "$", "(?:!", 1),
			`spec.httpRoute.match.path.regex has "(?:!", a group that begins with the character "!": it looks neither ahead nor behind, which Envoy's patterns (RE2) cannot`,
		},
		{
			"a path with a query", "", api.KindRoute, `{"httpRoute": {"match": {"path": {"exact": "/a?b=c"}}, "action": {"weightedTargets": [{"virtualNode": "gone", "weight": 1}]}}}`,
			`spec.httpRoute.match.path.exact is "/a?b=c", which no request has: a path ends before its "?"; match what follows a question mark by queryParameters`,
		},
		{
			"a prefix with a fragment, in a gateway route", "", api.KindGatewayRoute,
			`{"http2Route": {"match": {"prefix": "/a#"}, "action": {"target": {"virtualService": {"virtualServiceName": "a"}}}}}`,
			`spec.http2Route.match.prefix is "/a#", which no request has: a path ends before its "#"; match what follows a question mark by queryParameters`,
		},
		{
			"a header's prefix may have any character", "", api.KindGatewayRoute,
			`{"httpRoute": {"match": {"prefix": "/", "headers": [{"name": "x", "match": {"prefix": "?"}}]}, "action": {"target": {"virtualService": {"virtualServiceName": "a"}}}}}`, "",
		},
		{"any other group has none", "", api.KindRoute, strings.Replace(pattern, "$", "(?:", 1), ""},
		{
			"TRBL-036 in a header of a gateway route", "", api.KindGatewayRoute,
			`{"httpRoute": {"match": {"prefix": "/", "headers": [{"name": "x", "match": {"exact": "(?:!"}}, {"name": "x", "match": {"regex": "a(?:=b)"}}]}, "action": {"target": {"virtualService": {"virtualServiceName": "a"}}}}}`,
			`spec.httpRoute.match.headers[1].match.regex has "(?:=", a group that begins with the character "=": it looks neither ahead nor behind, which Envoy's patterns (RE2) cannot`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			add := func(kind api.Kind, parent, name, spec string) *api.Resource {
				decoded, err := api.DecodeSpec(kind, []byte(spec))
				if err != nil {
					t.Fatal(err)
				}
				return w.put(worldKey(kind, parent, name), decoded).New
			}
			filter := `{}`
			if c.filter != "" {
				filter = `{"egressFilter": {"type": "` + c.filter + `"}}`
			}
			add(api.KindMesh, "", "", filter)
			parent := map[api.Kind]string{api.KindRoute: "router", api.KindGatewayRoute: "gateway"}[c.kind]
			of := add(c.kind, parent, "it", c.spec)
			got := strings.Join(mesh.Advice(mesh.NewSnapshot(1, w.all()), of), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestChecked(t *testing.T) {
	t.Parallel()
	spec, err := api.DecodeSpec(api.KindVirtualNode, []byte(`{"listeners": [{"portMapping": {"port": 80, "protocol": "http"},
		"healthCheck": {"protocol": "http", "path": "/", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}},
		{"portMapping": {"port": 81, "protocol": "http"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	of := &api.Resource{Key: worldKey(api.KindVirtualNode, "", "node"), Spec: spec}
	const want = "the healthCheck on port 80 makes about 120 checks a second: 30 connected client proxies × 20 proxies of this node, every 5s; 6 a second at each. " +
		"Where the application feels that, check less often, or let outlierDetection watch the requests that are there anyway"
	if got := strings.Join(mesh.Checked(of, 30, 20), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, n := range [][2]int{{0, 20}, {30, 0}} {
		if got := mesh.Checked(of, n[0], n[1]); got != nil {
			t.Errorf("with %v proxies: %q", n, got)
		}
	}
}
