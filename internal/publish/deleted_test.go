package publish_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The API deletes no node that routes lead to; a store that was restored, or written
// by another release, may lack one. Its share goes to the other targets, proxies that
// have nothing to do with it get nothing, and it heals when the node is back.
func TestRealEnvoyWithARouteToADeletedNode(t *testing.T) {
	s := storetest.New(t)
	write(t, s, append(colors(), node("aside", "aside.local"), change{kind: api.KindVirtualService, name: "aside.local", spec: `{"provider":{"virtualNode":{"virtualNodeName":"v1"}}}`})...)
	r := newReplica(t, s, nil)
	path, _ := r.socket(t)
	front := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: true}, path)
	aside := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/aside", Delta: true}, path)
	testenv.Eventually(t, "both Envoys are current", func() bool { return r.current() == 2 })
	updates := func() (out []int) {
		for _, of := range []string{"cluster_manager.cds", "listener_manager.lds", "http.egress.rds.rds_egress_http_8080"} {
			out = append(out, aside.Stat(t, of+".update_success"))
		}
		return out
	}
	before := updates()
	const gone = "cds_egress_m_v2_http_8080"
	key := api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "color", Name: "all"}
	told := func() bool {
		return slices.ContainsFunc(r.Problems(key), func(p mesh.Problem) bool {
			return p.Reason == mesh.ReasonNotFound && strings.Contains(p.Message, "virtual node v2 does not exist")
		})
	}
	named := func() bool { return strings.Contains(front.Get(t, "/config_dump"), gone) }
	if !named() || told() {
		t.Fatalf("at first, routes lead to v2: %v, a problem says that it is none: %v", named(), told())
	}

	r.reach(t, write(t, s, change{kind: api.KindVirtualNode, name: "v2"}))
	if !told() {
		t.Errorf("the problems of the route are %v", r.Problems(key))
	}
	front.Wait(t, "nothing leads to the node", func() bool { return !named() })
	if !strings.Contains(front.Get(t, "/config_dump"), "cds_egress_m_v1_http_8080") {
		t.Error("nothing leads to the other target either")
	}
	r.reach(t, write(t, s, node("v2")))
	if told() {
		t.Errorf("with the node back, the problems of the route are %v", r.Problems(key))
	}
	front.Wait(t, "the node is a target again", named)
	testenv.Eventually(t, "both Envoys are current", func() bool { return r.current() == 2 })
	if after := updates(); !slices.Equal(after, before) {
		t.Errorf("updates of the other Envoy went from %v to %v", before, after)
	}
}
