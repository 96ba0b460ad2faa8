package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func TestAdviceOnRetries(t *testing.T) {
	t.Parallel()
	const (
		byNode = `{"provider": {"virtualNode": {"virtualNodeName": "$"}}}`
		route  = `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "http", "weight": 1}]}$}}`
		policy = `, "retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["stream-error", "gateway-error"], "tcpRetryEvents": ["connection-error"]}`
	)
	for _, c := range []struct {
		name string
		off  bool // the mesh has no default retry policy
		kind api.Kind
		spec string
		want string
	}{
		{
			name: "BP-002 a service without router", kind: api.KindVirtualService, spec: strings.Replace(byNode, "$", "http", 1),
			want: "its provider is virtual node http, so that requests that fail are repeated by App Mesh's default retry policy, which cannot be changed: a virtual router, with a route that has a retryPolicy, is recommended",
		},
		{
			name: "BP-002 one without default, too", off: true, kind: api.KindVirtualService, spec: strings.Replace(byNode, "$", "http", 1),
			want: "its provider is virtual node http, so that requests that fail are not repeated, as the mesh's setting defaultRetry is OFF: a virtual router, with a route that has a retryPolicy, is recommended",
		},
		{name: "a service with a router", kind: api.KindVirtualService, spec: `{"provider": {"virtualRouter": {"virtualRouterName": "router"}}}`},
		{name: "a service of tcp", kind: api.KindVirtualService, spec: strings.Replace(byNode, "$", "tcp", 1)},
		{name: "a service of a node that is not there", kind: api.KindVirtualService, spec: strings.Replace(byNode, "$", "gone", 1)},
		{name: "a service of nothing", kind: api.KindVirtualService, spec: `{}`},
		{
			name: "BP-002 a route without policy, where there is no default one", off: true, kind: api.KindRoute, spec: strings.Replace(route, "$", "", 1),
			want: "spec.httpRoute has no retryPolicy, and the mesh's setting defaultRetry is OFF, so that no request is repeated: a policy with at least 2 retries is recommended",
		},
		{name: "a route without policy, where the default one acts", kind: api.KindRoute, spec: strings.Replace(route, "$", "", 1)},
		{name: "a route with a policy", off: true, kind: api.KindRoute, spec: strings.Replace(route, "$", policy, 1)},
		{name: "a tcp route", off: true, kind: api.KindRoute, spec: `{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "tcp", "weight": 1}]}}}`},
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
			if m := add(api.KindMesh, "", "", `{}`); c.off {
				m.Settings.DefaultRetry = api.DefaultRetryOff
			}
			for _, protocol := range []string{"http", "tcp"} {
				add(api.KindVirtualNode, "", protocol, `{"listeners": [{"portMapping": {"port": 80, "protocol": "`+protocol+`"}}]}`)
			}
			of := add(c.kind, map[api.Kind]string{api.KindRoute: "router"}[c.kind], "it", c.spec)
			got := strings.Join(mesh.Advice(mesh.NewSnapshot(1, w.all()), of), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTried(t *testing.T) {
	t.Parallel()
	const match = `"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "gone", "weight": 1}]}`
	policy := func(retries, unit, timeout string) string {
		return `, "retryPolicy": {"maxRetries": ` + retries + `, "perRetryTimeout": {"unit": "` + unit + `", "value": ` + timeout + `}}`
	}
	for _, c := range []struct{ name, spec, want string }{
		{
			"BP-003 the product of retries and time", `{"httpRoute": {` + match + policy("3", "ms", "1500") + `}}`,
			"spec.httpRoute.retryPolicy may add 4.5s to a request: maxRetries 3 × perRetryTimeout 1.5s. A try at an endpoint that is gone takes all of its 1.5s",
		},
		{
			"BP-003 of a gRPC route", `{"grpcRoute": {"match": {}, "action": {"weightedTargets": [{"virtualNode": "gone", "weight": 1}]}` + policy("2", "s", "15") + `}}`,
			"spec.grpcRoute.retryPolicy may add 30s to a request: maxRetries 2 × perRetryTimeout 15s. A try at an endpoint that is gone takes all of its 15s",
		},
		{
			"any number of them", `{"http2Route": {` + match + policy("9223372036854775807", "s", "15") + `}}`,
			"spec.http2Route.retryPolicy may add more than a year to a request: maxRetries 9223372036854775807 × perRetryTimeout 15s. A try at an endpoint that is gone takes all of its 15s",
		},
		{"none", `{"httpRoute": {` + match + policy("0", "s", "15") + `}}`, ""},
		{"no time", `{"httpRoute": {` + match + policy("2", "s", "0") + `}}`, ""},
		{"no policy", `{"httpRoute": {` + match + `}}`, ""},
		{"a tcp route", `{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "gone", "weight": 1}]}}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec, err := api.DecodeSpec(api.KindRoute, []byte(c.spec))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(mesh.Tried(&api.Resource{Key: worldKey(api.KindRoute, "router", "it"), Spec: spec}), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := mesh.Tried(&api.Resource{Key: worldKey(api.KindMesh, "", ""), Spec: &api.MeshSpec{}}); got != nil {
		t.Errorf("of a mesh: %q", got)
	}
}
