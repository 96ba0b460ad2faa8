package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
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

func recent(t *testing.T, s *store.Store, want int, what string) {
	t.Helper()
	if writes, bytes := s.Recent(); writes != want || bytes < 0 || bytes == 0 != (want == 0) {
		t.Errorf("%s: %d writes of %d bytes are remembered, want %d", what, writes, bytes, want)
	}
}

// Without a watch nothing takes what was written; large ones are not piled up.
func TestRecentWritesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	put(t, s, resource(t, meshKey("m"), 1))
	most := 0
	for i := range 24 {
		node := resource(t, nodeKey("m", fmt.Sprint(i)), 1)
		node.Document = []byte(`{"logging":"` + strings.Repeat("a", 1<<20) + `"}`)
		put(t, s, node)
		writes, bytes := s.Recent()
		if most = max(most, bytes); writes == 0 {
			t.Error("the last write is not remembered")
		}
	}
	if most > store.MostRecentBytes || most < store.MostRecentBytes/2 {
		t.Errorf("at most %d bytes were remembered, want at most %d, and most of that", most, store.MostRecentBytes)
	}
}

// What was not written has no event that would take it.
func TestAWriteThatDidNotSucceedIsNotRemembered(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	one, other := replicas[0], replicas[1]
	refusal, tries := errors.New("no"), 0
	_, err := one.Update(context.Background(), []store.Scope{store.MeshScope(owner, "m")}, func(tx *store.Tx) error {
		if tries++; tries > 1 {
			return refusal
		}
		put(t, other, resource(t, meshKey("m"), 1)) // it is first
		tx.Put(resource(t, meshKey("m"), 2))
		return nil
	})
	if !errors.Is(err, refusal) || tries != 2 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
	recent(t, one, 0, "after a conflict")
	recent(t, other, 1, "the one that was first")
}

// What a watch has read as a whole comes in no event of its own.
func TestAResetForgetsRecentWrites(t *testing.T) {
	t.Parallel()
	replicas := storetest.Replicas(t, 2)
	put(t, replicas[0], resource(t, meshKey("m"), 1))
	put(t, replicas[1], resource(t, meshKey("m"), 2))
	recent(t, replicas[0], 1, "before")
	w := watch(t, replicas[0])
	w.next(t)
	recent(t, replicas[0], 0, "after the reset")
	put(t, replicas[0], resource(t, nodeKey("m", "n"), 1))
	w.next(t)
	recent(t, replicas[0], 0, "after the event")
}

// Whoever writes faster than events come has each of its writes told from memory.
func TestWritesOfOneKeyAreAllRemembered(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	w := watch(t, s)
	w.next(t)
	put(t, s, resource(t, meshKey("m"), 1))
	testenv.Eventually(t, "the watch has taken the mesh, and is held", func() bool {
		writes, _ := s.Recent()
		return writes == 0
	})
	for version := range int64(3) {
		put(t, s, resource(t, nodeKey("m", "n"), version+1))
	}
	recent(t, s, 3, "before their events")
	w.next(t)
	for version := range int64(3) {
		if b := w.next(t); len(b.Changes) != 1 || b.Changes[0].New.Version != version+1 {
			t.Errorf("told is %+v, want version %d", b.Changes, version+1)
		}
	}
	recent(t, s, 0, "after their events")
}
