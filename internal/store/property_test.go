package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// Whatever two replicas do, each of them reads what a plain map would hold; a
// watch that follows arrives at the same; and every batch is one transaction.
func TestTwoReplicasAgainstAModel(t *testing.T) {
	server, prefix := storetest.Server(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		o := store.Options{Server: server, Prefix: fmt.Sprintf("%s/%d", prefix, runs)}
		var replicas []*store.Store
		for range 2 {
			s, err := store.Open(context.Background(), o)
			if err != nil {
				rt.Fatal(err)
			}
			defer s.Close()
			replicas = append(replicas, s)
		}
		m := &model{replicas: replicas, now: map[api.Key]int64{}, tokens: map[string]string{}}
		stop := m.follow(rt)
		defer stop()
		rt.Repeat(map[string]func(*rapid.T){
			"update": m.update,
			"get":    m.get,
			"list":   m.list,
			"":       m.check,
		})
		m.settle(rt)
	})
}

// model is what the store must hold: versions by key.
type model struct {
	replicas []*store.Store
	now      map[api.Key]int64
	tokens   map[string]string // fingerprints
	wanted   []transaction
	batches  chan store.Batch
}

type transaction struct {
	revision int64
	changes  map[string]int64 // by key; -1 for a delete
}

func drawKey(t *rapid.T) api.Key {
	m := meshKey(rapid.SampledFrom([]string{"a", "b", "a-"}).Draw(t, "mesh"))
	name := rapid.SampledFrom([]string{"x", "y/z", "y"}).Draw(t, "name")
	switch rapid.SampledFrom([]string{"mesh", "node", "route"}).Draw(t, "kind") {
	case "mesh":
		return m
	case "node":
		return m.In(api.KindVirtualNode, "", name)
	}
	return m.In(api.KindRoute, rapid.SampledFrom([]string{"r", "s"}).Draw(t, "router"), name)
}

func (m *model) replica(t *rapid.T) *store.Store {
	return m.replicas[rapid.IntRange(0, len(m.replicas)-1).Draw(t, "replica")]
}

// update runs a transaction of a few writes, which may refuse or claim a token.
func (m *model) update(t *rapid.T) {
	keys := rapid.SliceOfN(rapid.Custom(drawKey), 1, 4).Draw(t, "keys")
	deletes := rapid.SliceOfN(rapid.Bool(), len(keys), len(keys)).Draw(t, "deletes")
	refuse := rapid.IntRange(0, 5).Draw(t, "refuse") == 0
	token := rapid.SampledFrom([]string{"", "", "t", "u"}).Draw(t, "token")
	fingerprint := fmt.Sprint(rapid.Int().Draw(t, "fingerprint"))
	refusal := errors.New("refused")

	var in []store.Scope
	for _, k := range keys {
		in = append(in, store.MeshScope(k.Owner, k.Mesh))
	}
	var after map[api.Key]int64
	var wrong string // what the last run read; one before may have read the past
	revision, err := m.replica(t).Update(context.Background(), in, func(tx *store.Tx) error {
		after, wrong = maps.Clone(m.now), ""
		for i, k := range keys {
			version, exists := after[k]
			if r := tx.Get(k); exists != (r != nil) || exists && r.Version != version {
				wrong = fmt.Sprintf("%s reads as %v in a transaction, want version %d, exists %v", k, r, version, exists)
			}
			if deletes[i] {
				delete(after, k)
				tx.Delete(k)
			} else {
				after[k] = version + 1
				tx.Put(resource(t, k, version+1))
			}
		}
		if refuse {
			return refusal
		}
		if token != "" {
			tx.Claim(store.Token{Key: token, Fingerprint: fingerprint, Result: json.RawMessage("{}")})
		}
		return nil
	})
	var taken *store.TokenTaken
	if wrong != "" && !errors.As(err, &taken) {
		t.Error(wrong)
	}
	switch earlier, claimed := m.tokens[token]; {
	case refuse:
		if !errors.Is(err, refusal) {
			t.Errorf("got %v, want the refusal", err)
		}
		return
	case claimed:
		// A transaction that changes nothing may as well be a repeat.
		if !errors.As(err, &taken) || taken.Token.Fingerprint != earlier {
			t.Errorf("got %v, want the token taken by %s", err, earlier)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	if token != "" {
		m.tokens[token] = fingerprint
	}
	changes := map[string]int64{}
	for _, k := range keys {
		_, was := m.now[k]
		version, is := after[k]
		switch {
		case is:
			changes[k.String()] = version
		case was:
			changes[k.String()] = -1
		}
	}
	if len(changes) > 0 {
		m.wanted = append(m.wanted, transaction{revision, changes})
	}
	m.now = after
}

func (m *model) get(t *rapid.T) {
	k := drawKey(t)
	r, err := m.replica(t).Get(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	if version, exists := m.now[k]; exists != (r != nil) || exists && r.Version != version {
		t.Errorf("%s reads as %v, want version %d, exists %v", k, r, version, exists)
	}
}

func (m *model) list(t *rapid.T) {
	k := drawKey(t)
	size := rapid.IntRange(1, 4).Draw(t, "size")
	var got []string
	after := ""
	for range 100 {
		items, more, err := m.replica(t).List(context.Background(), k.Kind, k, after, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range items {
			got = append(got, fmt.Sprint(r.Key, r.Version))
		}
		if !more {
			break
		}
		after = items[len(items)-1].Key.String()
	}
	var want []string
	for other, version := range m.now {
		if other.Kind == k.Kind && (k.Kind == api.KindMesh || other.Mesh == k.Mesh && other.Parent == k.Parent) {
			want = append(want, fmt.Sprint(other, version))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list of %s (-want +got):\n%s", k, diff)
	}
}

func (m *model) check(t *rapid.T) {
	head, err := m.replicas[0].Head(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.wanted); n > 0 && head != m.wanted[n-1].revision || n == 0 && head != 0 {
		t.Errorf("head is %d after %v", head, m.wanted)
	}
}

// follow watches from the start.
func (m *model) follow(t *rapid.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	m.batches = make(chan store.Batch, 10000)
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		done <- m.replicas[1].Watch(ctx, func(b store.Batch) error {
			if b.Reset {
				close(started)
				return nil
			}
			m.batches <- b
			return nil
		})
	}()
	<-started
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch returned %v", err)
		}
	}
}

// settle compares what the watch told with what happened.
func (m *model) settle(t *rapid.T) {
	for _, want := range m.wanted {
		var b store.Batch
		select {
		case b = <-m.batches:
		case <-time.After(patience):
			t.Fatalf("the batch of %v never came", want)
		}
		got := transaction{b.Revision, map[string]int64{}}
		for _, c := range b.Changes {
			got.changes[c.Key.String()] = -1
			if c.New != nil {
				got.changes[c.Key.String()] = c.New.Version
			}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(transaction{})); diff != "" {
			t.Fatalf("batch (-want +got):\n%s", diff)
		}
	}
	if n := len(m.batches); n > 0 {
		t.Errorf("%d batches came that nobody wrote", n)
	}
}
