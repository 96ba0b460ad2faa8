package compat

import (
	"fmt"
	"testing"
)

// The user guide's tutorial for EC2: service A calls service B, and B gets a
// second version that takes a quarter of the traffic.
func TestTutorial(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	c := newGoClient(t, e)
	do := func(operation, in string) map[string]any { return must(t, c, operation, document(t, in)) }
	node := func(name, version string) {
		do("CreateVirtualNode", fmt.Sprintf(`{"meshName": "tutorial", "virtualNodeName": %q, "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "%s.apps.local"}}}}`, name, version))
	}
	do("CreateMesh", `{"meshName": "tutorial"}`)
	do("CreateVirtualService", `{"meshName": "tutorial", "virtualServiceName": "servicea.apps.local", "spec": {}}`)
	do("CreateVirtualService", `{"meshName": "tutorial", "virtualServiceName": "serviceb.apps.local", "spec": {}}`)
	node("serviceB", "serviceb")
	node("serviceBv2", "servicebv2")
	node("serviceA", "servicea")
	do("CreateVirtualRouter", `{"meshName": "tutorial", "virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}]}}`)
	do("CreateRoute", `{"meshName": "tutorial", "virtualRouterName": "serviceB", "routeName": "serviceB", "spec": {"httpRoute": {"action": {"weightedTargets": [{"virtualNode": "serviceB", "weight": 100}]}, "match": {"prefix": "/"}}}}`)
	do("UpdateVirtualService", `{"meshName": "tutorial", "virtualServiceName": "serviceb.apps.local", "spec": {"provider": {"virtualRouter": {"virtualRouterName": "serviceB"}}}}`)
	do("UpdateVirtualService", `{"meshName": "tutorial", "virtualServiceName": "servicea.apps.local", "spec": {"provider": {"virtualNode": {"virtualNodeName": "serviceA"}}}}`)
	do("UpdateVirtualNode", `{"meshName": "tutorial", "virtualNodeName": "serviceA", "spec": {"backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}], "listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "servicea.apps.local"}}}}`)
	do("UpdateRoute", `{"meshName": "tutorial", "virtualRouterName": "serviceB", "routeName": "serviceB", "spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceB", "weight": 75}, {"virtualNode": "serviceBv2", "weight": 25}]}, "match": {"prefix": "/"}}}}`)
	t.Run("VS-017 what there is afterwards", func(t *testing.T) {
		for operation, want := range map[string]string{
			"ListVirtualServices": `{"virtualServices": [{"virtualServiceName": "servicea.apps.local"}, {"virtualServiceName": "serviceb.apps.local"}]}`,
			"ListVirtualNodes":    `{"virtualNodes": [{"virtualNodeName": "serviceA"}, {"virtualNodeName": "serviceB"}, {"virtualNodeName": "serviceBv2"}]}`,
			"ListVirtualRouters":  `{"virtualRouters": [{"virtualRouterName": "serviceB"}]}`,
			"ListVirtualGateways": `{"virtualGateways": []}`,
		} {
			contains(t, operation, must(t, c, operation, document(t, `{"meshName": "tutorial"}`)), document(t, want))
		}
		contains(t, "ListRoutes", must(t, c, "ListRoutes", document(t, `{"meshName": "tutorial", "virtualRouterName": "serviceB"}`)), document(t, `{"routes": [{"routeName": "serviceB"}]}`))
		contains(t, "DescribeRoute", must(t, c, "DescribeRoute", document(t, `{"meshName": "tutorial", "virtualRouterName": "serviceB", "routeName": "serviceB"}`)),
			document(t, `{"route": {"spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceB", "weight": 75}, {"virtualNode": "serviceBv2", "weight": 25}]}, "match": {"prefix": "/"}}}}}`))
	})
	t.Run("MESH-011 the mesh holds all of it", func(t *testing.T) {
		_, err := c.call(t.Context(), "DeleteMesh", map[string]any{"meshName": "tutorial"})
		checkFailure(t, err, "ResourceInUseException 409 Mesh tutorial for account "+e.account+" has active VirtualServices, please delete VirtualServices before deleting the Mesh")
	})
}
