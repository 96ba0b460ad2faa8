package ledger_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A drain looks for its proxy, and at once for those that tell the same addresses: the
// rows of the account are read for both together.
func TestProxiesOfAnAccountAreReadOnce(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.flush(t)
	c := &counted{Store: s}
	r := reader(s, start) // its clock stands
	r.Store, r.Flushed = c, w.Changed
	for range 2 {
		if got, _, err := r.Proxies(t.Context(), account); err != nil || len(got) != 1 {
			t.Fatalf("%d proxies, %v", len(got), err)
		}
	}
	if got := c.reads.Load(); got != 1 {
		t.Errorf("%d reads for one drain", got)
	}
	w.connect(node("n"), w.proxy(node("n"), "i"), w.proxy(node("n"), "j"))
	w.flush(t)
	if got, _, err := r.Proxies(t.Context(), account); err != nil || len(got) != 2 {
		t.Errorf("after a flush there are %d proxies, %v", len(got), err)
	}
}
