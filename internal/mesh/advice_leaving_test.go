package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

func TestAdviceOnReplicasThatEnd(t *testing.T) {
	t.Parallel()
	const (
		check = `, "healthCheck": {"protocol": "http", "path": "/", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`
		dns   = `"serviceDiscovery": {"dns": {"hostname": "a.local"}}`
		once  = `"retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["gateway-error"]}`
	)
	listener := func(port, more string) string {
		return `{"portMapping": {"port": ` + port + `, "protocol": "http"}` + more + `}`
	}
	for _, c := range []struct {
		name, node, route string
		off               bool     // the mesh has no default retry policy
		ofNode, ofRoute   []string // words of the only sentence about it; nil for none
	}{
		{
			name: "found by DNS, not checked, repeated by default", node: `{"listeners": [` + listener("80", "") + `], ` + dns + `}`,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`, ofNode: []string{"port 80 has no healthCheck"},
		},
		{
			name: "not repeated, in a mesh without the default", node: `{"listeners": [` + listener("80", "") + `], ` + dns + `}`, off: true,
			route: `{"http2Route": {"match": {"prefix": "/"}, "action": $}}`, ofNode: []string{"port 80 has no healthCheck"},
			ofRoute: []string{"spec.http2Route loses requests while a replica of virtual node node ends"},
		},
		{
			name: "not repeated, by a policy that repeats something else", node: `{"listeners": [` + listener("80", "") + `], ` + dns + `}`,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $, ` + once + `}}`, ofNode: []string{"port 80 has no healthCheck"},
			ofRoute: []string{"spec.httpRoute loses requests while a replica of virtual node node ends"},
		},
		{
			name: "repeated by a policy", node: `{"listeners": [` + listener("80", "") + `], ` + dns + `}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $, ` + strings.Replace(once, "gateway-error", "stream-error", 1) + `}}`, ofNode: []string{"port 80 has no healthCheck"},
		},
		{
			name: "a policy that repeats nothing", node: `{"listeners": [` + listener("80", "") + `], ` + dns + `}`,
			route:  `{"httpRoute": {"match": {"prefix": "/"}, "action": $, ` + strings.NewReplacer("gateway-error", "stream-error", `"maxRetries": 2`, `"maxRetries": 0`).Replace(once) + `}}`,
			ofNode: []string{"port 80 has no healthCheck"}, ofRoute: []string{"spec.httpRoute loses requests"},
		},
		{
			name: "checked", node: `{"listeners": [` + listener("80", check) + `], ` + dns + `}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`,
		},
		{
			name: "checked by TCP, which succeeds until the end", node: `{"listeners": [` + listener("80", strings.Replace(check, `"http", "path": "/"`, `"tcp"`, 1)) + `], ` + dns + `}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`, ofNode: []string{"port 80 has no healthCheck by HTTP or gRPC"},
			ofRoute: []string{"spec.httpRoute loses requests while a replica of virtual node node ends"},
		},
		{
			name: "checked by TCP at a port of its own", node: `{"listeners": [` + listener("80", strings.Replace(check, `"http", "path": "/"`, `"tcp", "port": 81`, 1)) + `], ` + dns + `}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`,
		},
		{
			name: "checked on the port that the route leads to", node: `{"listeners": [` + listener("80", check) + `, ` + listener("81", "") + `, ` + listener("82", "") + `], ` + dns + `}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "node", "weight": 1, "port": 80}]}}}`, ofNode: []string{"port 81, 82 has no healthCheck"},
		},
		{
			name: "found in Cloud Map", node: `{"listeners": [` + listener("80", "") + `], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "a", "serviceName": "b"}}}`, off: true,
			route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`,
		},
		{name: "found nowhere", node: `{}`, route: `{"httpRoute": {"match": {"prefix": "/"}, "action": $}}`, off: true},
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
			node := add(api.KindVirtualNode, "", "node", c.node)
			route := add(api.KindRoute, "router", "route", strings.ReplaceAll(c.route, "$", `{"weightedTargets": [{"virtualNode": "node", "weight": 1}]}`))
			s := mesh.NewSnapshot(1, w.all())
			for of, want := range map[*api.Resource][]string{node: c.ofNode, route: c.ofRoute} {
				var got []string
				for _, a := range mesh.Advice(s, of) {
					for _, words := range want {
						if strings.Contains(a, words) {
							a = words
						}
					}
					// The guide has its own to say of such policies.
					if !strings.Contains(a, ".retryPolicy.") && !strings.Contains(a, "no retryPolicy") {
						got = append(got, a)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", of.Key, diff)
				}
			}
		})
	}
}
