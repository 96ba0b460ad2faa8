package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func TestAdvice(t *testing.T) {
	t.Parallel()
	const good = `"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["stream-error", "gateway-error"], "tcpRetryEvents": ["connection-error"]`
	for _, c := range []struct{ name, spec, want string }{
		{"a route without a policy has none", `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`, ""},
		{"a tcp route has none", `{"tcpRoute": {"action": $}}`, ""},
		{"what is recommended", `{"httpRoute": {"match": {"prefix": "/"}, "action": $, "retryPolicy": {` + good + `}}}`, ""},
		{
			"a server-error is a gateway-error too",
			`{"httpRoute": {"match": {"prefix": "/"}, "action": $, "retryPolicy": {` + strings.Replace(good, "gateway-error", "server-error", 1) + `}}}`, "",
		},
		{
			"few retries and events",
			`{"http2Route": {"match": {"prefix": "/"}, "action": $, "retryPolicy": {"maxRetries": 1, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["client-error"]}}}`,
			`spec.http2Route.retryPolicy.maxRetries is 1: at least 2 are recommended
spec.http2Route.retryPolicy.httpRetryEvents is without stream-error, which is recommended
spec.http2Route.retryPolicy.httpRetryEvents is without gateway-error, which is recommended
spec.http2Route.retryPolicy.tcpRetryEvents is without connection-error, which is recommended`,
		},
		{
			"events of gRPC",
			`{"grpcRoute": {"match": {}, "action": $, "retryPolicy": {` + good + `, "grpcRetryEvents": ["cancelled"]}}}`,
			`spec.grpcRoute.retryPolicy.grpcRetryEvents is without unavailable, which is recommended`,
		},
		{
			"tries that do not fit", // the guide's own sample
			`{"httpRoute": {"match": {"prefix": "/"}, "action": $, "timeout": {"perRequest": {"unit": "ms", "value": 9999}}, "retryPolicy": {` + good + `}}}`,
			`spec.httpRoute: 2 retries of 5s each do not fit into 9.999s, which is all the time that a request has: timeout.perRequest cuts them off`,
		},
		{
			"tries that fit exactly, and without end",
			`{"httpRoute": {"match": {"prefix": "/"}, "action": $, "timeout": {"perRequest": {"unit": "s", "value": 10}}, "retryPolicy": {` + good + `}}}`, "",
		},
		{
			"a long route before a usual listener and a long one",
			`{"httpRoute": {"match": {"prefix": "/"}, "action": $, "timeout": {"perRequest": {"unit": "s", "value": 20}}}}`,
			`spec.httpRoute.timeout.perRequest lets a request last 20s, but the listener of virtual node usual on port 80 ends it after 15s: give it a timeout.perRequest too`,
		},
		{
			"a route without end",
			`{"httpRoute": {"match": {"prefix": "/"}, "action": $, "timeout": {"perRequest": {"unit": "s", "value": 0}}}}`,
			`spec.httpRoute.timeout.perRequest lets a request last any time, but the listener of virtual node usual on port 80 ends it after 15s: give it a timeout.perRequest too
spec.httpRoute.timeout.perRequest lets a request last any time, but the listener of virtual node long on port 80 ends it after 30s: give it a timeout.perRequest too`,
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
			add(api.KindVirtualNode, "", "usual", `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`)
			add(api.KindVirtualNode, "", "long", `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "timeout": {"http": {"perRequest": {"unit": "s", "value": 30}}}}]}`)
			targets := `{"weightedTargets": [{"virtualNode": "usual", "weight": 1}, {"virtualNode": "long", "weight": 1}, {"virtualNode": "gone", "weight": 1}]}`
			route := add(api.KindRoute, "router", "route", strings.ReplaceAll(c.spec, "$", targets))
			got := strings.Join(mesh.Advice(mesh.NewSnapshot(1, w.all()), route), "\n")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
