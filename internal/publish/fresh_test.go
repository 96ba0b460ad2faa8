package publish_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// gated is a store whose head is read only when the gate opens.
type gated struct {
	*store.Store
	reads atomic.Int64
	gate  chan struct{}
}

func (g *gated) Head(ctx context.Context) (int64, error) {
	g.reads.Add(1)
	select {
	case <-g.gate:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return g.Store.Head(ctx)
}

func TestManyFreshStreamsCostFewReadsOfTheStore(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	source := &gated{Store: s, gate: make(chan struct{})}
	r := newReplica(t, source, nil)
	const n = 500
	var running sync.WaitGroup
	begun := make(chan struct{}, n)
	for range n {
		running.Go(func() {
			begun <- struct{}{}
			if _, _, err := r.Resolve(t.Context(), "mesh/m/virtualNode/front", account); err != nil {
				t.Error(err)
			}
		})
	}
	for range n {
		<-begun
	}
	close(source.gate)
	running.Wait()
	if got := source.reads.Load(); got > n/5 {
		t.Errorf("%d reads for %d streams", got, n)
	}
}

func TestAFaultIsOneProblemHoweverManyHaveIt(t *testing.T) {
	s := storetest.New(t)
	write(t, s, append(colors(), route("color", "v1", 1, "gone", 1))...)
	r := newReplica(t, s, nil)
	write(t, s, node("back", "color.local"))
	front, back := r.proxy(t, "front", true), r.proxy(t, "back", true)
	ready(t, front)
	ready(t, back)
	key := api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "color", Name: "all"}
	summary := func() []string {
		var out []string
		for _, p := range r.Problems(key) {
			out = append(out, p.Key.String()+" "+p.Reason)
		}
		return out
	}
	// Proxies have their configuration before all are counted who have the problem.
	testenv.Eventually(t, "the problem is told", func() bool { return len(summary()) > 0 })
	if diff := cmp.Diff([]string{account + "/m/route/color/all NotFound"}, summary()); diff != "" {
		t.Errorf("problems (-want +got)\n%s", diff)
	}
	if weights(t, front)["cds_egress_m_v1_http_8080"] == 0 {
		t.Error("the other target does not work")
	}
	write(t, s, node("gone"))
	testenv.Eventually(t, "the problem is gone", func() bool { return len(r.Problems(api.Key{})) == 0 })
}

func TestResolve(t *testing.T) {
	s := storetest.New(t)
	write(t, s, colors()...)
	r := newReplica(t, s, nil)
	got, _, err := r.Resolve(t.Context(), "mesh/m/virtualNode/front", account)
	adstest.Must(t, err)
	if want := account + "/m/virtualNode/front"; got.Key.String() != want {
		t.Errorf("got %s, want %s", got.Key, want)
	}
	if _, _, err := r.Resolve(t.Context(), "mesh/m/virtualNode/front", other); fmt.Sprint(err) != "NotFoundException: mesh/m/virtualNode/front does not exist: create it, or correct APPMESH_RESOURCE_ARN." {
		t.Errorf("another account gets %v", err)
	}
}
