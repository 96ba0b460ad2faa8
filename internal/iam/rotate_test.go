package iam_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func manage(t *testing.T, s *store.Store, dir string) *iam.Keys {
	t.Helper()
	k, err := iam.Manage(context.Background(), replica(s, dir))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func places() []seal.Place { return []seal.Place{iam.Place()} }

func lines(t *testing.T, file string) []string {
	t.Helper()
	return strings.Split(strings.TrimSpace(read(t, file)), "\n")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to+".new", []byte(read(t, from)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

// serves asserts that a replica knows all keys with their secrets.
func serves(t *testing.T, k *iam.Keys, keys ...iam.AccessKey) {
	t.Helper()
	for _, key := range keys {
		if got, ok := known(t, k, key.ID); !ok || string(got.Secret) != string(key.Secret) {
			t.Errorf("key %s is known: %v, with its secret: %v", key.ID, ok, string(got.Secret) == string(key.Secret))
		}
	}
}

// The whole change with two replicas that have files of their own: the first
// call stops until the other has the new key, and then everything is sealed
// anew while both go on.
func TestRotateMasterKeyWithTwoReplicas(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 3)
	one, two := t.TempDir(), t.TempDir()
	a, ca := stores[0], replica(stores[0], one)
	ca.Replica = "one"
	first1 := open(t, ca)
	copyFile(t, filepath.Join(one, "master-key"), filepath.Join(two, "master-key"))
	cb := replica(stores[1], two)
	cb.Replica = "two"
	second := open(t, cb)
	run(t, first1)
	run(t, second)
	root := rootOf(t, filepath.Join(one, "credentials"))
	other, err := manage(t, a, one).AddAccount(context.Background(), "111122223333")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*iam.Keys{first1, second} { // from here on it is never unknown again
		testenv.Eventually(t, "the other account's key is known", func() bool {
			_, ok := known(t, x, other.ID)
			return ok
		})
	}
	old := lines(t, filepath.Join(one, "master-key"))[0]

	k := manage(t, stores[2], one)
	var said []string
	o := seal.RotateOptions{Wait: 50 * time.Millisecond, Say: func(text string) { said = append(said, text) }}
	if _, err := k.Box().Rotate(context.Background(), places(), o); err == nil || !strings.Contains(err.Error(), "two") || !strings.Contains(err.Error(), "run this again") {
		t.Fatalf("got error %v", err)
	}
	if got := lines(t, filepath.Join(one, "master-key")); len(got) != 2 || got[0] != old {
		t.Fatalf("the file has %d lines", len(got))
	}
	if len(said) == 0 || !strings.Contains(said[0], "added a key") {
		t.Errorf("it said %q", said)
	}
	serves(t, first1, root, other)
	serves(t, second, root, other)

	copyFile(t, filepath.Join(one, "master-key"), filepath.Join(two, "master-key"))
	o.Wait = testenv.Patience
	n, err := k.Box().Rotate(context.Background(), places(), o)
	if err != nil || n != 3 {
		t.Fatalf("sealed %d, error %v; want 3: two keys and that of texts", n, err)
	}
	now := lines(t, filepath.Join(one, "master-key"))
	if len(now) != 1 || now[0] == old {
		t.Errorf("the file holds %d keys, the old one: %v", len(now), slices.Contains(now, old))
	}
	serves(t, first1, root, other)
	serves(t, second, root, other)

	// The old key opens nothing any more, and nobody seals with it.
	stale := filepath.Join(t.TempDir(), "master-key")
	if err := os.WriteFile(stale, []byte(old+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := replica(a, one)
	c.MasterKeyFile = stale
	var wrong *seal.MasterKeyError
	if _, err := iam.Open(context.Background(), c); !errors.As(err, &wrong) {
		t.Errorf("with the old key: %v", err)
	}
	// A replica whose file still has both seals with the new one, and its file
	// is put in order by the same command.
	third, err := manage(t, a, two).AddAccount(context.Background(), "444455556666")
	if err != nil {
		t.Fatal(err)
	}
	serves(t, manage(t, a, one), root, other, third)
	if n, err := manage(t, a, two).Box().Rotate(context.Background(), places(), o); err != nil || n != 0 {
		t.Errorf("sealed %d once more, error %v", n, err)
	}
	if got := lines(t, filepath.Join(two, "master-key")); !slices.Equal(got, now) {
		t.Error("the second file does not hold the new key alone")
	}
}

// Interrupted anywhere, everything can be read by whoever has both keys, and the
// next call ends it.
func TestAnInterruptedRotationGoesOn(t *testing.T) {
	t.Parallel()
	for stop := range 5 {
		s, dir := storetest.New(t), t.TempDir()
		k := open(t, replica(s, dir))
		all := []iam.AccessKey{rootOf(t, filepath.Join(dir, "credentials"))}
		for _, id := range []string{"111122223333", "444455556666", "777788889999"} {
			key, err := k.AddAccount(context.Background(), id)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, key)
		}
		// The context ends when the record of a key was sealed anew for the
		// stop-th time.
		ctx, cancel := context.WithCancel(context.Background())
		var watching sync.WaitGroup
		seen, ready := 0, make(chan struct{})
		watching.Go(func() {
			_ = s.WatchRecords(ctx, "account/", func(b store.RecordBatch) error {
				if b.Reset {
					close(ready)
				} else if seen++; seen > stop {
					cancel()
				}
				return nil
			})
		})
		<-ready
		_, err := manage(t, s, dir).Box().Rotate(ctx, places(), seal.RotateOptions{Alone: true, Say: func(string) {}})
		cancel()
		watching.Wait()
		serves(t, manage(t, s, dir), all...)
		if n, err2 := manage(t, s, dir).Box().Rotate(context.Background(), places(), seal.RotateOptions{Alone: true, Say: func(string) {}}); err2 != nil {
			t.Errorf("stopped at %d (%v): sealed %d, then %v", stop, err, n, err2)
		}
		serves(t, manage(t, s, dir), all...)
		if got := lines(t, filepath.Join(dir, "master-key")); len(got) != 1 {
			t.Errorf("stopped at %d: the file holds %d keys", stop, len(got))
		}
	}
}

// A key file that is broken while a replica runs is not taken.
func TestABrokenMasterKeyFileIsNotTaken(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	var log bytes.Buffer
	var mu sync.Mutex
	c := replica(s, dir)
	c.Replica, c.Log = "one", newLog(&mu, &log)
	k := open(t, c)
	run(t, k)
	root := rootOf(t, filepath.Join(dir, "credentials"))
	if err := os.WriteFile(filepath.Join(dir, "master-key"), []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "something is said of it", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(log.String(), "the keys before go on")
	})
	serves(t, k, root)
}

// A reset ends the old key and makes the new one known, on every replica, and
// each writes it to its credentials file.
func TestResetRootOnEveryReplica(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 3)
	one, two := t.TempDir(), t.TempDir()
	a := open(t, replica(stores[0], one))
	copyFile(t, filepath.Join(one, "master-key"), filepath.Join(two, "master-key"))
	b := open(t, replica(stores[1], two))
	run(t, a)
	run(t, b)
	ctx := context.Background()
	old := rootOf(t, filepath.Join(one, "credentials"))
	verb := manage(t, stores[2], one)
	fresh, err := verb.ResetRoot(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*iam.Keys{"the first": a, "the second": b} {
		testenv.Eventually(t, name+" replica takes the new key and refuses the old one", func() bool {
			_, before := known(t, k, old.ID)
			got, now := known(t, k, fresh.ID)
			return !before && now && string(got.Secret) == string(fresh.Secret)
		})
	}
	for _, dir := range []string{one, two} {
		testenv.Eventually(t, "the credentials file has the new key", func() bool { return rootOf(t, filepath.Join(dir, "credentials")).ID == fresh.ID })
	}
	var refusal *api.Error
	if _, err := verb.ResetRoot(ctx, "999999999999"); !errors.As(err, &refusal) || refusal.Code != api.CodeNotFound {
		t.Errorf("an account that does not exist: %v", err)
	}
	// It is still the account that it was.
	if got := rootOf(t, filepath.Join(one, "credentials")); string(got.Secret) != string(fresh.Secret) {
		t.Error("the file has another secret")
	}
	if err := os.Remove(filepath.Join(two, "credentials")); err != nil {
		t.Fatal(err)
	}
	open(t, replica(stores[2], two))
	if got := rootOf(t, filepath.Join(two, "credentials")); got.ID != fresh.ID {
		t.Error("a restart brings another key")
	}
}

// What this release cannot read fully it does not seal anew (D12), and says so.
func TestANewerReleasesKeyIsNotRewritten(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	open(t, replica(s, dir))
	root := rootOf(t, filepath.Join(dir, "credentials"))
	scope := store.AccountScope(first)
	tail := scope.Tail("key", root.ID)
	if _, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.PutRecord(store.Type{Name: "accessKey", Schema: 2}, tail, tx.Record(tail).Body)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, err := manage(t, s, dir).Box().Rotate(context.Background(), places(), seal.RotateOptions{Alone: true, Say: func(string) {}})
	if err == nil || !strings.Contains(err.Error(), "older than another") {
		t.Errorf("got %v", err)
	}
	if got := lines(t, filepath.Join(dir, "master-key")); len(got) != 2 {
		t.Errorf("the file holds %d keys, want both", len(got))
	}
	serves(t, manage(t, s, dir), root)
}

// Comments in the file stay, and the new key is of the right form.
func TestRotationKeepsComments(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	file := filepath.Join(dir, "master-key")
	if err := os.WriteFile(file, []byte("# of the shop\n"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, replica(s, dir))
	if n, err := manage(t, s, dir).Box().Rotate(context.Background(), places(), seal.RotateOptions{Alone: true, Say: func(string) {}}); err != nil || n != 2 {
		t.Fatalf("sealed %d, error %v", n, err)
	}
	got := lines(t, file)
	if len(got) != 2 || got[0] != "# of the shop" {
		t.Fatalf("the file has %d lines, the first %q", len(got), got[0])
	}
	if raw, err := base64.StdEncoding.DecodeString(got[1]); err != nil || len(raw) != 32 {
		t.Errorf("the new key has %d bytes, error %v", len(raw), err)
	}
}

// newLog is a logger whose text may be read while it is used.
func newLog(mu *sync.Mutex, out *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(&guarded{mu, out}, nil))
}

type guarded struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out.Write(p)
}
