package iam_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

var _ auth.Keys = (*iam.Keys)(nil)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const first = "000000000000"

// replica is how a replica with an embedded store opens its keys.
func replica(s *store.Store, dir string) iam.Config {
	return iam.Config{
		Store: s, Partition: "aws", Account: first, MasterKeyFile: filepath.Join(dir, "master-key"), CreateMasterKey: true,
		CredentialsFile: filepath.Join(dir, "credentials"), Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

func open(t *testing.T, c iam.Config) *iam.Keys {
	t.Helper()
	k, err := iam.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rootOf reads a credentials file as AWS's tools do.
func rootOf(t *testing.T, file string) iam.AccessKey {
	t.Helper()
	found := regexp.MustCompile(`(?m)^\[default\]\naws_access_key_id = (AKIA[A-Z2-7]{16})\naws_secret_access_key = ([A-Za-z0-9/+]{40})\n`).FindStringSubmatch(read(t, file))
	if found == nil {
		t.Fatalf("%s is not a shared-credentials file:\n%s", file, read(t, file))
	}
	return iam.AccessKey{ID: found[1], Secret: auth.Secret(found[2])}
}

// known says what an access key is known as; ok is false for an unknown one.
func known(t *testing.T, k *iam.Keys, id string) (auth.Credential, bool) {
	t.Helper()
	c, ok, err := k.Credential(context.Background(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	return c, ok
}

// run follows the store until the test ends.
func run(t *testing.T, k *iam.Keys) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestFirstStartMakesTheRootKey(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	k := open(t, replica(s, dir))
	root := rootOf(t, filepath.Join(dir, "credentials"))
	got, ok := known(t, k, root.ID)
	want := auth.Credential{Secret: root.Secret, Principal: auth.Principal{Account: first, ARN: "arn:aws:iam::000000000000:root", AccessKeyID: root.ID, Type: auth.Root, ID: first}}
	if diff := cmp.Diff(want, got); !ok || diff != "" || string(got.Secret) != string(root.Secret) {
		t.Errorf("found %v, credential (-want +got):\n%s", ok, diff)
	}
	for _, name := range []string{"master-key", "credentials"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if _, ok := known(t, k, "AKIAAAAAAAAAAAAAAAAA"); ok {
		t.Error("a key that nobody made is known")
	}
}

func TestEveryReplicaWritesTheSameCredentials(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	a, b := t.TempDir(), t.TempDir()
	open(t, replica(replicas[0], a))
	c := replica(replicas[1], b)
	c.MasterKeyFile, c.CreateMasterKey = filepath.Join(a, "master-key"), false
	open(t, c)
	if diff := cmp.Diff(read(t, filepath.Join(a, "credentials")), read(t, filepath.Join(b, "credentials"))); diff != "" {
		t.Errorf("the second replica's credentials differ:\n%s", diff)
	}
}

func TestReplicasThatStartTogetherMakeOneRootKey(t *testing.T) {
	const n = 4
	dir, replicas := t.TempDir(), storetest.Replicas(t, n)
	master := filepath.Join(dir, "master-key")
	if err := os.WriteFile(master, []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, n)
	for i, s := range replicas {
		go func() {
			c := replica(s, filepath.Join(dir, fmt.Sprint(i)))
			c.MasterKeyFile = master
			_, err := iam.Open(context.Background(), c)
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	want := rootOf(t, filepath.Join(dir, "0", "credentials"))
	for i := range n {
		if got := rootOf(t, filepath.Join(dir, fmt.Sprint(i), "credentials")); got.ID != want.ID || string(got.Secret) != string(want.Secret) {
			t.Errorf("replica %d has root key %s, replica 0 %s", i, got.ID, want.ID)
		}
	}
}

func TestRestartKeepsTheKeys(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	open(t, replica(s, dir))
	root := rootOf(t, filepath.Join(dir, "credentials"))
	if err := os.Remove(filepath.Join(dir, "credentials")); err != nil {
		t.Fatal(err)
	}
	k := open(t, replica(s, dir))
	if got := rootOf(t, filepath.Join(dir, "credentials")); got.ID != root.ID || string(got.Secret) != string(root.Secret) {
		t.Errorf("root key is %s after a restart, was %s", got.ID, root.ID)
	}
	if _, ok := known(t, k, root.ID); !ok {
		t.Error("the root key is not known after a restart")
	}
}

func TestWrongMasterKey(t *testing.T) {
	line := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n" }
	for _, c := range []struct {
		name, text, want string // text of the file at the second start
		ok               bool
	}{
		{name: "the same", text: line(1), ok: true},
		{name: "the same, second of two, as while they change", text: line(2) + line(1), ok: true},
		{name: "another", text: line(2), want: "was sealed with another master key"},
		{name: "absent", want: "no such file"},
		{name: "three", text: line(1) + line(2) + line(3), want: "holds 3 keys"},
		{name: "empty", text: "\n", want: "holds 0 keys"},
		{name: "too short", text: "YQ==\n", want: "not 32 bytes in base64"},
		{name: "no base64", text: "my secret\n", want: "not 32 bytes in base64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, dir := storetest.New(t), t.TempDir()
			master := filepath.Join(dir, "master-key")
			if err := os.WriteFile(master, []byte(line(1)), 0o600); err != nil {
				t.Fatal(err)
			}
			open(t, replica(s, dir))
			err := os.WriteFile(master, []byte(c.text), 0o600)
			if c.text == "" {
				err = os.Remove(master)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = iam.Open(context.Background(), replica(s, dir))
			if c.ok {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var wrong *seal.MasterKeyError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "--master-key-file "+master) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want a MasterKeyError with %q", err, c.want)
			}
		})
	}
}

// What is in etcd, in a backup or on the disk tells no secret.
func TestSecretsAreSealedAtRest(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	k := open(t, replica(s, dir))
	other, err := k.AddAccount(context.Background(), "111122223333")
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"111122223333": true, "222233334444": false} {
		if exists, err := k.AccountExists(t.Context(), id); err != nil || exists != want {
			t.Errorf("account %s exists: %t, %v", id, exists, err)
		}
	}
	all, err := s.Read(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 4 {
		t.Fatalf("only %d records are stored", len(all))
	}
	for _, key := range []iam.AccessKey{other, rootOf(t, filepath.Join(dir, "credentials"))} {
		raw, err := base64.StdEncoding.DecodeString(string(key.Secret))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range all {
			for _, form := range []string{string(key.Secret), string(raw), base64.StdEncoding.EncodeToString([]byte(key.Secret))} {
				if strings.Contains(string(value), form) {
					t.Errorf("%s holds the secret of %s", name, key.ID)
				}
			}
		}
	}
}

// A sealed secret is of no use in another key's record.
func TestASealedSecretCannotBeMoved(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	k := open(t, replica(s, dir))
	ctx := context.Background()
	root := rootOf(t, filepath.Join(dir, "credentials"))
	if _, err := k.AddAccount(ctx, "111122223333"); err != nil {
		t.Fatal(err)
	}
	from, to := store.AccountScope(first), store.AccountScope("111122223333")
	if _, err := s.Update(ctx, []store.Scope{from, to}, func(tx *store.Tx) error {
		stolen := tx.Record(from.Tail("key", root.ID))
		tx.PutRecord(store.Type{Name: stolen.Type, Schema: 1}, to.Tail("key", root.ID), stolen.Body)
		tx.DeleteRecord(store.Type{Name: stolen.Type, Schema: 1}, from.Tail("key", root.ID))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	run(t, k)
	testenv.Eventually(t, "the moved key is refused", func() bool {
		_, ok, err := k.Credential(ctx, root.ID, "")
		return !ok && err != nil
	})
}

func TestTwoAccounts(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	dir := t.TempDir()
	a := open(t, replica(replicas[0], dir))
	c := replica(replicas[1], dir)
	b := open(t, c)
	run(t, b)
	ctx := context.Background()
	key, err := a.AddAccount(ctx, "111122223333")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := known(t, a, key.ID); !ok || got.Principal.Account != "111122223333" {
		t.Errorf("the replica that made the account knows its key as %v, %v", got.Principal, ok)
	}
	testenv.Eventually(t, "the other replica knows the key", func() bool { _, ok := known(t, b, key.ID); return ok })
	got, _ := known(t, b, key.ID)
	if string(got.Secret) != string(key.Secret) || got.Principal.ARN != "arn:aws:iam::111122223333:root" {
		t.Errorf("the other replica knows the key as %v", got.Principal)
	}
	for id, code := range map[string]string{"111122223333": api.CodeConflict, first: api.CodeConflict, "12": api.CodeBadRequest, "11112222333a": api.CodeBadRequest} {
		var refusal *api.Error
		if _, err := a.AddAccount(ctx, id); !errors.As(err, &refusal) || refusal.Code != code {
			t.Errorf("account %s: got %v, want %s", id, err, code)
		}
	}
}

func TestRevocationIsSeenByEveryReplica(t *testing.T) {
	replicas := storetest.Replicas(t, 2)
	dir := t.TempDir()
	a := open(t, replica(replicas[0], dir))
	b := open(t, replica(replicas[1], dir))
	run(t, a)
	run(t, b)
	id := "111122223333"
	key, err := a.AddAccount(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "both replicas know the key", func() bool {
		_, one := known(t, a, key.ID)
		_, two := known(t, b, key.ID)
		return one && two
	})
	scope := store.AccountScope(id)
	if _, err := replicas[0].Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.DeleteRecord(store.Type{Name: "accessKey", Schema: 1}, scope.Tail("key", key.ID))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "both replicas refuse the key", func() bool {
		_, one := known(t, a, key.ID)
		_, two := known(t, b, key.ID)
		return !one && !two
	})
}
