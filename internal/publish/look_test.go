package publish_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// told is a ledger that says what it is told to say.
type told struct {
	rows  []api.LedgerRow
	looks atomic.Int64
}

func (l *told) Mesh(context.Context, api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	l.looks.Add(1)
	return l.rows, []api.Replica{{ID: "a", AppliedRevision: 1 << 40, SeenAt: api.Timestamp{Time: time.Now()}}}, true, nil
}

// fed is a store whose changes a test makes up.
type fed chan store.Batch

func (f fed) Head(context.Context) (int64, error) { return 0, nil }

func (f fed) Watch(ctx context.Context, fn func(store.Batch) error) error {
	for {
		select {
		case b := <-f:
			if err := fn(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type nowhere struct{}

func (nowhere) Set(mesh.Client, int64, *envoy.Bundle) {}

// resource is what a change writes, without a store.
func resource(t testing.TB, c change, revision int64) *api.Resource {
	t.Helper()
	spec, err := api.DecodeSpec(c.kind, []byte(c.spec))
	if err != nil {
		t.Fatal(err)
	}
	return &api.Resource{Key: api.Key{Owner: account, Mesh: "m", Kind: c.kind, Parent: c.parent, Name: c.name}, Owner: account, Spec: spec, Revision: revision}
}

// However many nodes are in a turn at once, a look resolves a client's view once for
// each snapshot that it looks at, and turns of nodes that nobody waits for end.
func TestALookResolvesEachViewOnce(t *testing.T) {
	t.Parallel()
	const n, backends = 120, 5
	source, ledger := make(fed), &told{}
	var views, applied atomic.Int64
	l := publish.New(publish.Config{
		Store: source, Proxies: nowhere{}, Ledger: ledger, PublishWait: tooLong, Log: quiet(), Workers: 1, Now: clock,
		Applied: applied.Store, Visited: func(mesh.Client, bool) { views.Add(1) },
	})
	var before, after []api.Change
	for i := range n {
		name := fmt.Sprint("n", i)
		var calls []string
		for j := range backends {
			calls = append(calls, fmt.Sprint("s", (i+j+1)%n))
		}
		old, now := resource(t, listening(name, "8080/PERMISSIVE", calls...), 1), resource(t, listening(name, "8080/STRICT", calls...), 2)
		of := resource(t, change{kind: api.KindVirtualService, name: fmt.Sprint("s", i), spec: fmt.Sprintf(`{"provider":{"virtualNode":{"virtualNodeName":%q}}}`, name)}, 1)
		before, after = append(before, api.Change{Key: old.Key, New: old}, api.Change{Key: of.Key, New: of}), append(after, api.Change{Key: now.Key, New: now})
		state := api.ProxyStateCurrent
		if i == 0 {
			state = api.ProxyStatePending // n1 to n5 wait for it
		}
		ledger.rows = append(ledger.rows, api.LedgerRow{Client: old.Key.String(), Replica: "a", Revision: 2, Members: []api.Proxy{{Instance: "i", State: state}}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for i, changes := range [][]api.Change{before, after} {
		revision := int64(i + 1)
		source <- store.Batch{Revision: revision, Reset: i == 0, Changes: changes}
		testenv.Eventually(t, "the batch was applied", func() bool { return applied.Load() == revision })
	}
	const looks = 4
	testenv.Eventually(t, "it was looked at a few times", func() bool { return ledger.looks.Load() >= looks && len(l.Problems(api.Key{})) > 0 })
	// Beside the views of now there are those of what was shown before of the one
	// proxy that is late.
	got := views.Load() // before the looks that may go on
	most := ledger.looks.Load() * (n + 8)
	if got < n || got > most {
		t.Errorf("%d looks at turns of %d nodes resolved %d views, want no more than %d", ledger.looks.Load(), n, got, most)
	}
	if got := len(l.Problems(api.Key{})); got != backends {
		t.Errorf("%d nodes wait, want the %d that the late proxy uses", got, backends)
	}
}

// What was written down of a turn that nobody finished is no turn a day later.
func TestATurnThatNobodyFinishedIsOver(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		age     time.Duration
		between bool
	}{{"a minute ago", time.Minute, true}, {"a day ago", 24 * time.Hour, false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := storetest.New(t)
			revision := write(t, s, lone("9090")...)
			goal := resource(t, listening("v1", "9090"), revision)
			turn := mesh.Turn{Goal: resource(t, listening("v1", "8080"), 1)}.To(goal)
			text, err := json.Marshal(map[string]any{"revision": revision, "turn": turn.Form(), "at": time.Now().Add(-test.age)})
			adstest.Must(t, err)
			adstest.Must(t, s.Write(t.Context(), false, []store.Op{{Key: "ledger/turns/" + url.PathEscape(v1Key.String()), Value: text, Lasting: true}}))
			k := newKept(t, s, "a", time.Now)
			v1 := k.named(t, "v1", "v", true)
			ready(t, v1)
			want := "9090 raw_buffer"
			if test.between {
				want = "8080 raw_buffer, 9090 raw_buffer"
			}
			if got := inbound(t, v1); got != want {
				t.Errorf("its proxy has %q, want %q", got, want)
			}
			if !test.between {
				settled(t, s)
			}
		})
	}
}
