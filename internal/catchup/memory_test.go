package catchup_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

var (
	unknown = api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
	outside = api.Errorf(api.CodeForbidden, "User: x is not authorized to perform: y on resource: z")
)

// told is a memory that is told by the test.
type told struct {
	mu       sync.Mutex
	revision int64
	moved    chan struct{}
}

func newTold(revision int64) *told { return &told{revision: revision, moved: make(chan struct{})} }

func (x *told) tell(revision int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.revision = revision
	close(x.moved)
	x.moved = make(chan struct{})
}

func (x *told) now() (int64, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.revision, x.moved
}

func (x *told) follower(tail string, codes ...string) catchup.Follower {
	return catchup.Follower{
		Tail: tail, Codes: codes,
		Revision: func() int64 { now, _ := x.now(); return now },
		Reach: func(ctx context.Context, revision int64) bool {
			for {
				now, moved := x.now()
				if now >= revision {
					return true
				}
				select {
				case <-moved:
				case <-ctx.Done():
					return false
				}
			}
		},
	}
}

// rig is a store of two heads, and the memory that follows it.
type rig struct {
	*catchup.Memory
	account, mesh *told
	head          atomic.Int64 // of both
	reads         atomic.Int64
	away          atomic.Bool // the store does not answer
}

// inBubble runs a test with the times of a machine that is never busy.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{account: newTold(7), mesh: newTold(7)}
		r.head.Store(7)
		r.Memory = catchup.New(catchup.Config{Now: time.Now, Heads: func(ctx context.Context, tails ...string) ([]int64, error) {
			r.reads.Add(1)
			if r.away.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Millisecond) // its way
			at := r.head.Load()
			return []int64{at, at}, nil
		}, Followers: []catchup.Follower{r.account.follower("account/", api.CodeUnrecognizedClient, api.CodeForbidden), r.mesh.follower("mesh/", api.CodeForbidden)}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = r.Run(ctx) }()
		defer func() { stop(); <-ended }()
		test(t, r)
	})
}

// after says how long something took, of the bubble's time.
func after(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func TestWhoIsRefusedWaitsUntilTheMemoryIsAsNewAsTheStore(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, r *rig) {
		at := r.At()
		if r.Again(t.Context(), at, unknown) {
			t.Error("it is decided again though nothing was written")
		}
		r.head.Store(9)
		go func() {
			time.Sleep(300 * time.Millisecond)
			r.account.tell(8)
			time.Sleep(300 * time.Millisecond)
			r.account.tell(9)
		}()
		var again bool
		if took := after(func() { again = r.Again(t.Context(), at, unknown) }); !again || took < 600*time.Millisecond || took > 650*time.Millisecond {
			t.Errorf("again %v after %v, want it with the second batch, at 600ms", again, took)
		}
		if r.Again(t.Context(), r.At(), unknown) {
			t.Error("it is decided again on the same memory")
		}
		// What came between the decision and the question counts as well.
		at = r.At()
		r.head.Store(10)
		r.account.tell(10)
		if !r.Again(t.Context(), at, unknown) {
			t.Error("it is not decided again on newer memory")
		}
		// Meshes are two revisions behind, and one refusal rests on them.
		if took := after(func() { r.Again(t.Context(), r.At(), unknown) }); took > 50*time.Millisecond {
			t.Errorf("an unknown key waited %v for meshes", took)
		}
		go func() { time.Sleep(100 * time.Millisecond); r.mesh.tell(10) }()
		if !r.Again(t.Context(), r.At(), outside) {
			t.Error("it is not decided again when the meshes are there")
		}
	})
}

func TestOnlyRefusalsThatRestOnMemoryCostReads(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, r *rig) {
		r.head.Store(9)
		for _, err := range []error{nil, errors.New("fault"), api.Errorf(api.CodeInvalidSignature, "no"), api.Errorf(api.CodeNotFound, "no")} {
			if r.Again(t.Context(), r.At(), err) {
				t.Errorf("%v is decided again", err)
			}
		}
		if got := r.reads.Load(); got != 0 {
			t.Errorf("%d reads", got)
		}
	})
	var none *catchup.Memory
	if none.Again(t.Context(), none.At(), unknown) {
		t.Error("it is decided again where there is no memory")
	}
}

func TestAThousandThatAreRefusedTogetherCostTwoReads(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, r *rig) {
		at := r.At()
		var refused sync.WaitGroup
		var again atomic.Int64
		for range 1000 {
			refused.Go(func() {
				if r.Again(t.Context(), at, unknown) {
					again.Add(1)
				}
			})
		}
		// Those who ask while a read is on its way get the next one.
		time.Sleep(500 * time.Microsecond)
		r.head.Store(9)
		r.account.tell(9)
		for range 1000 {
			refused.Go(func() {
				if r.Again(t.Context(), at, unknown) {
					again.Add(1)
				}
			})
		}
		refused.Wait()
		if reads := r.reads.Load(); reads > 2 || again.Load() != 2000 {
			t.Errorf("%d reads, %d of 2000 decided again", reads, again.Load())
		}
	})
}

func TestAFloodOfRefusalsCostsABoundedNumberOfReads(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, r *rig) {
		took := after(func() {
			var strangers sync.WaitGroup
			for range 20 {
				strangers.Go(func() {
					for range 500 {
						r.Again(t.Context(), r.At(), unknown)
					}
				})
			}
			strangers.Wait()
		})
		// A thousand a second would be there without a pace.
		if reads := r.reads.Load(); reads < 100 || reads > 200*int64(took/time.Second+1) {
			t.Errorf("%d reads in %v", reads, took)
		}
		// Whoever is new then is known all the same.
		r.head.Store(9)
		at := r.At()
		go r.account.tell(9)
		if !r.Again(t.Context(), at, unknown) {
			t.Error("a new key is refused beside strangers")
		}
	})
}

func TestAStoreThatDoesNotAnswerLeavesTheRefusal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail func(r *rig)
		mend func(r *rig)
	}{
		"no read is answered":    {func(r *rig) { r.away.Store(true) }, func(r *rig) { r.away.Store(false) }},
		"the watch says nothing": {func(*rig) {}, func(*rig) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, r *rig) {
				r.head.Store(9)
				c.fail(r)
				at := r.At()
				ask := func() (again bool, took time.Duration) {
					took = after(func() { again = r.Again(t.Context(), at, unknown) })
					return again, took
				}
				if again, took := ask(); again || took < time.Second || took > 1100*time.Millisecond {
					t.Errorf("again %v after %v, want a refusal after a second", again, took)
				}
				for range 100 { // and others do not wait for it in vain
					if again, took := ask(); again || took > 10*time.Millisecond {
						t.Fatalf("again %v after %v, want a refusal at once", again, took)
					}
				}
				c.mend(r)
				time.Sleep(time.Second)
				go func() { time.Sleep(100 * time.Millisecond); r.account.tell(9) }()
				if again, took := ask(); !again || took > 200*time.Millisecond {
					t.Errorf("again %v after %v, want a decision as soon as it is told", again, took)
				}
			})
		})
	}
}

func TestACallerThatLeavesStopsNobody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, r *rig) {
		r.head.Store(9)
		at := r.At()
		gone, leave := context.WithCancel(t.Context())
		leave()
		if r.Again(gone, at, unknown) {
			t.Error("it is decided again for who has left")
		}
		go func() { time.Sleep(100 * time.Millisecond); r.account.tell(9) }()
		if !r.Again(t.Context(), at, unknown) {
			t.Error("the next one is refused at once")
		}
	})
}
