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
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
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
