package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A replica knows what it has written and does not decode it again when its
// event comes. What it tells is what every other replica reads.
func TestWatchTellsTheWriterWhatItTellsOthers(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	one, other := replicas[0], replicas[1]
	mine, theirs := watch(t, one), watch(t, other)
	mine.next(t)
	theirs.next(t)
	node := resource(t, nodeKey("m", "n"), 1)
	node.Created = node.Created.Add(123456789 * time.Nanosecond).In(time.FixedZone("away", 3600))
	node.Tags = []api.TagRef{}
	tell := func(what string) {
		t.Helper()
		a, b := mine.next(t), theirs.next(t)
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s: what the writer is told (+) differs from what others are (-):\n%s", what, diff)
		}
	}
	put(t, one, resource(t, meshKey("m"), 1), node)
	tell("two new ones")
	node.Version, node.Tags = 2, []api.TagRef{{Key: "a", Value: "b"}}
	put(t, one, node)
	tell("a change")
	put(t, other, resource(t, nodeKey("m", "n"), 3)) // over what this one remembers of its own
	tell("a change by the other")
	node.Version = 4
	put(t, one, node)
	tell("a change after that")
}
