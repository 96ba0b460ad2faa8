package publish_test

import (
	"context"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// set writes a mesh's settings, as the API does.
func set(t *testing.T, s *store.Store, to api.MeshSettings) {
	t.Helper()
	key := api.Key{Owner: account, Mesh: "m", Kind: api.KindMesh, Name: "m"}
	if _, err := s.Update(context.Background(), []store.Scope{store.MeshScope(account, "m")}, func(tx *store.Tx) error {
		made := *tx.Get(key)
		made.Settings = to
		tx.Put(&made)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A mesh's settings reach its clients and nobody of another owner's mesh of the
// same name, which shares the replica and what it has built.
func TestEMS_038_SettingsReachExactlyTheMeshsClients(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, colors()...)
		theirs := colors()
		for i := range theirs {
			theirs[i].owner = other
		}
		write(t, s, theirs...)
		r := newReplica(t, s, nil)
		connect := func(as string) *adstest.Proxy {
			return adstest.Connect(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: delta, Headers: map[string]string{"account": as}})
		}
		mine, yours := connect(account), connect(other)
		ready(t, mine)
		ready(t, yours)
		r.counts()
		policies := func(p *adstest.Proxy) (n int) {
			for _, c := range p.Routes(t) {
				for _, h := range c.VirtualHosts {
					for _, x := range h.Routes {
						if x.GetRoute().GetRetryPolicy() != nil {
							n++
						}
					}
				}
			}
			return n
		}
		all := policies(yours)
		if all == 0 || policies(mine) != all {
			t.Fatalf("%d and %d routes have the default policy", policies(mine), all)
		}
		sent := len(yours.Responses())
		for _, c := range []struct {
			to   api.DefaultRetry
			want int
		}{{api.DefaultRetryOff, 0}, {"", all}, {api.DefaultRetryOff, 0}, {api.DefaultRetryOn, all}} {
			set(t, s, api.MeshSettings{DefaultRetry: c.to})
			mine.Wait(t, "the setting "+string(c.to), func() bool { return policies(mine) == c.want })
			if views, _, of := r.counts(); views != 1 {
				t.Errorf("%d views were resolved, want ours alone: %v", views, of)
			}
		}
		if policies(yours) != all || len(yours.Responses()) != sent {
			t.Errorf("the other mesh has %d policies and was sent %q", policies(yours), yours.Responses()[sent:])
		}
	})
}
