package seal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func box(t *testing.T, s *store.Store, file string, needed bool) *seal.Box {
	t.Helper()
	b, err := seal.Open(seal.Config{Store: s, MasterKeyFile: file, CreateMasterKey: true, Sealed: needed, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func text(t *testing.T, b *seal.Box) {
	t.Helper()
	if err := b.LoadText(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A text that one replica sealed opens on every other one, also after the master
// key has changed, and for its owner only.
func TestTextsOutliveTheMasterKey(t *testing.T) {
	t.Parallel()
	stores, file := storetest.Replicas(t, 2), filepath.Join(t.TempDir(), "master-key")
	one := box(t, stores[0], file, false)
	if _, err := one.SealText("session", []byte("a")); err == nil {
		t.Error("a text is sealed before there is a key")
	}
	text(t, one)
	secret := []byte("wJalrXUtnFEMI")
	sealed, err := one.SealText("session", secret)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sealed, string(secret)) {
		t.Error("the sealed text shows what it holds")
	}
	derived, err := one.Derive("peers")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := one.Rotate(context.Background(), nil, seal.RotateOptions{Alone: true, Say: func(string) {}}); n != 1 || err != nil {
		t.Fatalf("sealed %d, error %v; want 1", n, err)
	}
	two := box(t, stores[1], file, true)
	text(t, two)
	for name, b := range map[string]*seal.Box{"the same": one, "another": two} {
		if got, err := b.OpenText("session", sealed); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%s replica opens it as %d bytes, error %v", name, len(got), err)
		}
		if got, err := b.Derive("peers"); err != nil || !bytes.Equal(got, derived) {
			t.Errorf("%s replica derives another key, error %v", name, err)
		}
		if got, _ := b.Derive("others"); bytes.Equal(got, derived) {
			t.Errorf("%s replica derives one key for two purposes", name)
		}
		if _, err := b.OpenText("other", sealed); err == nil {
			t.Errorf("%s replica opens it for another owner", name)
		}
		for i := range len(sealed) {
			changed := []byte(sealed)
			changed[i] ^= 1
			if _, err := b.OpenText("session", string(changed)); err == nil {
				t.Fatalf("%s replica opens it with character %d changed", name, i)
			}
		}
		for _, wrong := range []string{"", "A", "====", sealed + "=", sealed + "\n", sealed[:len(sealed)-4]} {
			if _, err := b.OpenText("session", wrong); err == nil {
				t.Errorf("%s replica opens %q", name, wrong)
			}
		}
	}
}

// What a place holds is sealed anew, whole records and only what needs it.
func TestRotateSealsPlacesAnew(t *testing.T) {
	t.Parallel()
	s, file := storetest.New(t), filepath.Join(t.TempDir(), "master-key")
	b := box(t, s, file, false)
	scope := store.ServiceScope("certs", "111122223333")
	kind := store.Type{Name: "authority", Schema: 1, Members: []string{"keys"}}
	type body struct {
		Keys []seal.Sealed `json:"keys"`
	}
	place := seal.Place{Tail: "service/certs/", Read: func(r store.Record) (*seal.Content, error) {
		c := new(body)
		if err := json.Unmarshal(r.Body, c); err != nil {
			return nil, err
		}
		content := &seal.Content{Scope: scope, Type: kind, Body: c}
		for i := range c.Keys {
			content.Secrets = append(content.Secrets, seal.Slot{Owner: r.Key, Sealed: &c.Keys[i]})
		}
		return content, nil
	}}
	tail := scope.Tail("ca")
	if _, err := s.Update(context.Background(), []store.Scope{scope, seal.Scope()}, func(tx *store.Tx) error {
		var c body
		for _, secret := range []string{"one", "two"} {
			sealed, err := b.Seal(tx, tail, []byte(secret))
			if err != nil {
				return err
			}
			c.Keys = append(c.Keys, sealed)
		}
		tx.PutRecord(kind, tail, c)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	stale := box(t, s, file, true)
	if n, err := b.Rotate(context.Background(), []seal.Place{place}, seal.RotateOptions{Alone: true, Say: func(string) {}}); n != 2 || err != nil {
		t.Fatalf("sealed %d, error %v; want 2", n, err)
	}
	records, _, err := s.Records(context.Background(), "service/certs/")
	if err != nil || len(records) != 1 {
		t.Fatalf("%d records, error %v", len(records), err)
	}
	c, err := place.Read(records[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"one", "two"} {
		if got, err := b.Open(tail, *c.Secrets[i].Sealed); err != nil || string(got) != want {
			t.Errorf("secret %d is %d bytes, error %v", i, len(got), err)
		}
		_, err := stale.Open(tail, *c.Secrets[i].Sealed)
		if _, ok := errors.AsType[*seal.MasterKeyError](err); !ok {
			t.Errorf("with the key before: %v", err)
		}
	}
}

// With the master key the key of texts is another: what was sealed before opens as long
// as it may count, on every replica, and with End not at all. Who has stolen the keys
// before seals nothing more that opens then.
func TestTheKeyOfTextsIsReplaced(t *testing.T) {
	t.Parallel()
	stores, file := storetest.Replicas(t, 2), filepath.Join(t.TempDir(), "master-key")
	var clock sync.Mutex
	at := time.Now()
	now := func() time.Time { clock.Lock(); defer clock.Unlock(); return at }
	pass := func(d time.Duration) { clock.Lock(); defer clock.Unlock(); at = at.Add(d) }
	open := func(s *store.Store, needed bool) *seal.Box {
		t.Helper()
		b, err := seal.Open(seal.Config{Store: s, MasterKeyFile: file, CreateMasterKey: true, Sealed: needed, Log: slog.New(slog.DiscardHandler), Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two, thief := open(stores[0], false), open(stores[1], true), open(stores[0], true)
	text(t, one)
	text(t, thief) // read everything, and follows nothing
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { two.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	sealed := func(b *seal.Box) string {
		t.Helper()
		s, err := b.SealText("session", []byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	opens := func(b *seal.Box, s string) bool { _, err := b.OpenText("session", s); return err == nil }
	rotate := func(end bool) {
		t.Helper()
		if _, err := one.Rotate(t.Context(), nil, seal.RotateOptions{Alone: true, End: end, Say: func(string) {}}); err != nil {
			t.Fatal(err)
		}
		text(t, one)
	}
	before := sealed(one)
	testenv.Eventually(t, "the other replica reads the key by itself", func() bool { return opens(two, before) })

	rotate(false)
	if !opens(one, before) || !opens(one, sealed(thief)) {
		t.Error("what was sealed before the change does not open after it")
	}
	if s := sealed(one); !opens(thief, s) {
		t.Error("the new key seals before other replicas can have it")
	}
	pass(11 * time.Second)
	after := sealed(one)
	if opens(thief, after) {
		t.Error("the new key does not seal")
	}
	testenv.Eventually(t, "the other replica takes the new key by itself", func() bool { return opens(two, after) })
	rotate(false)
	if !opens(one, before) || !opens(one, after) {
		t.Error("a second change ends what is from before the first")
	}
	pass(37 * time.Hour)
	if opens(one, before) || opens(one, sealed(thief)) || opens(two, before) {
		t.Error("the stolen key seals after its end")
	}

	last := sealed(one)
	rotate(true)
	if opens(one, last) || !opens(one, sealed(one)) {
		t.Error("what is to end does not end, or nothing begins")
	}
	testenv.Eventually(t, "sessions end on the other replica", func() bool { return !opens(two, last) && opens(two, sealed(one)) })
}

// A key that is not there yet is no fault of who shows what it sealed.
func TestNoKeyOfTextsYet(t *testing.T) {
	t.Parallel()
	b := box(t, storetest.New(t), filepath.Join(t.TempDir(), "master-key"), false)
	_, err := b.OpenText("session", "AAAA")
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeServiceUnavailable {
		t.Errorf("error %v", err)
	}
}
