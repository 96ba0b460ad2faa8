package ads

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Proxies of one node may differ in what their configuration depends on: each has
// a goal for its kind, and the ledger has one row for all (D8).
func TestProxiesOfOneNodeDiffer(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		measured := mesh.Client{Key: client("a").Key, Traits: mesh.Traits{Metrics: true}}
		other := simple()
		other[envoy.Listener] = []*envoy.Resource{resource("in", "with metrics"), resource("out", "with metrics")}
		r.mu.Lock()
		r.goals[measured] = goalWith(other)
		r.goals[measured].revision = 7
		r.mu.Unlock()

		feed(t, r.open(t, "a", delta))
		s := adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: nodeID("a"), Instance: "a-2", Delta: delta, Metrics: true})
		var listeners []string
		for _, f := range feed(t, s) {
			if f.Type == adstest.LDS {
				for _, r := range f.Resources {
					listeners = append(listeners, string(r.Value))
				}
			}
		}
		if want := []string{"in=with metrics", "out=with metrics"}; !slices.Equal(listeners, want) {
			t.Errorf("the second proxy got %q, want %q", listeners, want)
		}
		testenv.Eventually(t, "both are current, in one row", func() bool {
			row, _ := r.Row(client("a"))
			same, _ := r.Row(measured)
			return len(row.Members) == 2 && len(same.Members) == 2 && row.Members[0].Instance == "a-1" && row.Members[1].Instance == "a-2" &&
				row.Members[0].State == api.ProxyStateCurrent && row.Members[1].State == api.ProxyStateCurrent && row.Revision == 1
		})
		s.Close()
		testenv.Eventually(t, "one is left", func() bool {
			row, _ := r.Row(measured)
			return len(row.Members) == 1 && row.Members[0].Instance == "a-1"
		})
	})
}

// As many kinds as there are addresses: all have one row, count together, and nothing of them is left.
func TestProxiesWithoutInterception(t *testing.T) {
	const proxies = 20
	r := newRig(t, nil)
	r.Room = func(context.Context, api.Key) Room {
		return Room{Most: proxies, Quota: "L-1", Known: func(_, _ string) bool { return false }, Came: func(_, _ string) {}}
	}
	r.give("a", simple())
	open := func(i int) *adstest.Stream {
		direct := client("a")
		direct.Traits.Direct = mesh.Direct(fmt.Sprintf("none 10.0.0.%d", i))
		r.mu.Lock()
		r.goals[direct] = goalWith(simple())
		r.mu.Unlock()
		return adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{
			Node: nodeID("a"), Instance: fmt.Sprintf("a-%02d", i), Delta: true, Ingress: fmt.Sprintf("10.0.0.%d", i),
		})
	}
	var streams []*adstest.Stream
	for i := range proxies {
		s := open(i)
		feed(t, s)
		streams = append(streams, s)
	}
	testenv.Eventually(t, "all are in one row, and say what they are", func() bool {
		row, _ := r.Row(client("a"))
		return len(row.Members) == proxies && !slices.ContainsFunc(row.Members, func(p api.Proxy) bool {
			return !strings.Contains(strings.Join(p.Notes, " "), "without interception") || p.State != api.ProxyStateCurrent
		})
	})
	s := open(proxies)
	_ = s.Send(adstest.Request{Type: adstest.CDS}) // the stream may have ended already
	if code, text := s.End(t); code != codes.ResourceExhausted {
		t.Errorf("one more ends with %v, %q", code, text)
	}
	for _, s := range streams {
		s.Close()
	}
	testenv.Eventually(t, "nothing is kept of who left", func() bool {
		r.Server.mu.Lock()
		defer r.Server.mu.Unlock()
		return len(r.groups) == 0 && len(r.byKey) == 0
	})
}
