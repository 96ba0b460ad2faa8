package publish_test

import (
	"slices"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
)

// Whom a turn waits for, by what the ledger says.
func TestWhomATurnWaitsFor(t *testing.T) {
	const revision = 10
	now := time.Unix(1000, 0)
	nodeOf := func(c change) *api.Resource {
		spec, err := api.DecodeSpec(c.kind, []byte(c.spec))
		if err != nil {
			t.Fatal(err)
		}
		return &api.Resource{Key: v1Key, Spec: spec}
	}
	turn := mesh.Turn{Goal: nodeOf(listening("v1", "8080"))}.To(nodeOf(listening("v1", "8080/STRICT")))
	replica := func(id string, applied int64, silent time.Duration) api.Replica {
		return api.Replica{ID: id, AppliedRevision: applied, SeenAt: api.Timestamp{Time: now.Add(-silent)}}
	}
	same, old := "same", "old"
	proxy := func(state api.ProxyState, listener, route *string) api.Proxy {
		return api.Proxy{Instance: "i", State: state, Types: []api.TypeStatus{
			{Type: api.DiscoveryTypeCluster, Wanted: &same, Accepted: &old},
			{Type: api.DiscoveryTypeListener, Wanted: &same, Accepted: listener},
			{Type: api.DiscoveryTypeRoute, Wanted: &same, Accepted: route},
		}}
	}
	current, pending, refused := proxy(api.ProxyStateCurrent, &same, &same), proxy(api.ProxyStatePending, &same, &same), proxy(api.ProxyStateRefused, &same, &same)
	front := api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: "front"}
	of := func(key api.Key, revision int64, p ...api.Proxy) api.LedgerRow {
		return api.LedgerRow{Client: key.String(), Replica: "a", Revision: revision, Members: p}
	}
	held := func(r api.LedgerRow) api.LedgerRow { r.Held = []string{v1Key.String()}; return r }
	lacking := func(r api.LedgerRow, secrets ...string) api.LedgerRow {
		r.Lacking, r.Problems = secrets, []api.Problem{{Reason: ads.ReasonSecretRefused}}
		return r
	}
	const theNode, theClient = "proxy i of virtualNode v1 at replica a", "proxy i of virtualNode front at replica a"
	for _, test := range []struct {
		name    string
		leaving bool
		rows    []api.LedgerRow
		replica api.Replica
		leads   bool // the client's services lead to the node; else they did
		want    []string
	}{
		{"nobody is connected", false, nil, replica("a", revision, 0), true, nil},
		{"it has accepted", false, []api.LedgerRow{of(v1Key, revision, current)}, replica("a", revision, 0), true, nil},
		{"it has accepted what counts", false, []api.LedgerRow{of(v1Key, revision, pending)}, replica("a", revision, 0), true, nil},
		{"it has not accepted listeners", false, []api.LedgerRow{of(v1Key, revision, proxy(api.ProxyStatePending, &old, &same))}, replica("a", revision, 0), true, []string{theNode}},
		{"it has no listeners", false, []api.LedgerRow{of(v1Key, revision, proxy(api.ProxyStatePending, nil, &same))}, replica("a", revision, 0), true, []string{theNode}},
		{"it has not accepted routes", false, []api.LedgerRow{of(v1Key, revision, proxy(api.ProxyStatePending, &same, &old))}, replica("a", revision, 0), true, []string{theNode}},
		{"it is at an older revision", false, []api.LedgerRow{of(v1Key, revision-1, current)}, replica("a", revision, 0), true, []string{theNode}},
		{"it lacks its certificate", false, []api.LedgerRow{lacking(of(v1Key, revision, current), "/c.pem")}, replica("a", revision, 0), true, []string{"a secret of a proxy at replica a"}},
		{"it lacks a secret for something else", false, []api.LedgerRow{lacking(of(v1Key, revision, current))}, replica("a", revision, 0), true, nil},
		{"a replica has not applied", false, []api.LedgerRow{of(v1Key, revision, current)}, replica("a", revision-1, 0), true, []string{"replica a"}},
		{"a silent one has not", false, []api.LedgerRow{of(v1Key, revision, current)}, replica("a", revision-1, time.Minute), true, nil},
		{"a client is no matter yet", false, []api.LedgerRow{of(front, revision-1, pending)}, replica("a", revision, 0), true, nil},

		{"the client has accepted", true, []api.LedgerRow{of(front, revision, current)}, replica("a", revision, 0), true, nil},
		{"the client has not accepted", true, []api.LedgerRow{of(front, revision, pending)}, replica("a", revision, 0), true, []string{theClient}},
		{"the client has refused", true, []api.LedgerRow{of(front, revision, refused)}, replica("a", revision, 0), true, []string{theClient}},
		{"the client is at an older revision", true, []api.LedgerRow{of(front, revision-1, current)}, replica("a", revision, 0), true, []string{theClient}},
		{"the client is shown what was", true, []api.LedgerRow{held(of(front, revision, current))}, replica("a", revision, 0), true, []string{theClient}},
		{"another is shown what was", true, []api.LedgerRow{held(of(front, revision, current))}, replica("a", revision, 0), false, []string{theClient}},
		{"the node's own proxies get what was", true, []api.LedgerRow{held(of(v1Key, revision, current))}, replica("a", revision, 0), true, nil},
		{"another has accepted", true, []api.LedgerRow{of(front, revision-1, current)}, replica("a", revision, 0), false, nil},
		{"another may come from there", true, []api.LedgerRow{of(front, revision, pending)}, replica("a", revision, 0), false, []string{theClient}},
		{"another may come from there, and refuses everything", true, []api.LedgerRow{of(front, revision, refused)}, replica("a", revision, 0), false, []string{theClient}},
		{"the node's own proxies are no matter any more", true, []api.LedgerRow{of(v1Key, revision, pending)}, replica("a", revision, 0), true, nil},
		{"and still a replica has not applied", true, nil, replica("a", revision-1, 0), true, []string{"replica a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := turn
			if test.leaving {
				at = turn.Next()
			}
			got := publish.Waiting(at, v1Key, revision, now, test.rows, []api.Replica{test.replica}, map[string]bool{front.String(): test.leads}, map[string]bool{front.String(): !test.leads})
			if !slices.Equal(got, test.want) {
				t.Errorf("it waits for %q, want %q", got, test.want)
			}
		})
	}
}
