package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
)

// Proxies of one node that get different listeners are told apart, and counted as one node.
func TestPlannedProxiesAreToldApart(t *testing.T) {
	t.Parallel()
	of := func(name string, connected int64, listener string, traits ...string) api.PlannedProxy {
		return api.PlannedProxy{
			Action: api.PlanActionUpdate, ResourceARN: "arn:aws:appmesh:us-east-1:111122223333:mesh/shop/virtualNode/" + name, Traits: traits, Connected: &connected, Drains: true,
			Configurations: []api.PlannedConfiguration{{Action: api.PlanActionUpdate, Type: api.DiscoveryTypeListener, Name: listener}},
		}
	}
	var text strings.Builder
	changed, drains := printPlannedProxies(&text, []api.PlannedProxy{
		of("web", 2, "redirected", "no-sds"), of("web", 1, "redirected"), of("orders", 0, "redirected"),
		of("web", 3, "direct", "interception none 10.0.0.7 8080:18080", "no-sds"), of("web", 1, "direct", "interception none"),
		of("web", 1, "counting", "metrics"), of("orders", 1, "alone", "no-sds"),
	})
	const want = `
proxies of mesh/shop/virtualNode/web (without an SDS server), mesh/shop/virtualNode/web, mesh/shop/virtualNode/orders:
  update  listener redirected

proxies of mesh/shop/virtualNode/web (without interception, at 10.0.0.7, as 2 others at their addresses, application ports 8080:18080), mesh/shop/virtualNode/web (without interception):
  update  listener direct

proxies of mesh/shop/virtualNode/web (with the metrics extension):
  update  listener counting

proxies of mesh/shop/virtualNode/orders (without an SDS server):
  update  listener alone
`
	if diff := cmp.Diff(want, text.String()); diff != "" || changed != 2 || drains != 2 {
		t.Errorf("%d change, %d drain (-want +got)\n%s", changed, drains, diff)
	}
}
