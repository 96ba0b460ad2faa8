package ledger_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// Reached names every proxy of every replica, those that refused first, and what
// it says of each is what the rollout counted it as.
func TestReachedNamesTheProxiesOfAllReplicas(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 3)
	revision := resource(t, stores[0], theRoute, `{}`)
	for i, s := range stores {
		w := newWorld(s, fmt.Sprint("r", i))
		good, bad := w.proxy(node("n"), fmt.Sprint("good", i)), w.proxy(node("n"), fmt.Sprint("bad", i))
		bad.State = api.ProxyStateRefused
		bad.Types[3].Refusal = &api.Refusal{At: api.Timestamp{Time: start}, Message: "no", Version: "v"}
		bad.Types[3].Accepted = nil
		w.connect(node("n"), good, bad)
		w.Applied(revision)
		if i == 2 {
			w.Applied(revision - 1) // it lags: what its proxies accepted is older
		}
		w.flush(t)
	}
	rollout, all, err := reader(stores[1], start).Reached(t.Context(), theRoute)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range all {
		got = append(got, p.Instance+" "+string(p.State))
	}
	want := []string{
		"bad0 REFUSED", "bad1 REFUSED", "bad2 PENDING", "good2 PENDING", "good0 CURRENT", "good1 CURRENT",
	}
	slices.Sort(got[2:4])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("proxies (-want +got)\n%s", diff)
	}
	if rollout.ProxiesAffected != 6 || rollout.ProxiesAccepted != 2 || rollout.ReplicasApplied != 2 {
		t.Errorf("the rollout says %+v", rollout)
	}
}
