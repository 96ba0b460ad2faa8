package plan_test

import (
	"runtime"
	"testing"
	"weak"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// What a plan made up goes with its result: the snapshot that it was worked out on
// does not keep it, nor do those that follow.
func TestAPlanLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := large(t, 30)
	var gone []weak.Pointer[api.Resource]
	for range 10 {
		gone = append(gone, thrownAway(t, s))
	}
	next := s.Apply(2, nil)
	for range 3 {
		runtime.GC()
	}
	left := 0
	for _, w := range gone {
		if w.Value() != nil {
			left++
		}
	}
	runtime.KeepAlive(next)
	runtime.KeepAlive(s)
	if left > 0 {
		t.Errorf("%d of %d services that only plans had are still held", left, len(gone))
	}
}

// thrownAway plans a service that a node calls.
func thrownAway(t *testing.T, s *mesh.Snapshot) weak.Pointer[api.Resource] {
	t.Helper()
	service := made(t, api.KindVirtualService, "", "thrown-away.local", `{"provider":{"virtualRouter":{"virtualRouterName":"n1"}}}`)
	node := made(t, api.KindVirtualNode, "", "caller", `{"backends":[{"virtualService":{"virtualServiceName":"thrown-away.local"}}]}`)
	r, err := plan.On(t.Context(), s, mesh.Quotas{}, []plan.Change{{Key: service.Key, Now: service}, {Key: node.Key, Now: node}})
	if err != nil || len(r.Proxies) != 1 || len(r.Proxies[0].Configurations) == 0 {
		t.Fatalf("got %+v, %v", r.Proxies, err)
	}
	return weak.Make(service)
}
