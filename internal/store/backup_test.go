package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// emptyStore opens a store for a restore.
func emptyStore(t *testing.T) (s *store.Store, o store.Options) {
	t.Helper()
	server, prefix := storetest.Server(t)
	o = store.Options{Server: server, Prefix: prefix, Restoring: true}
	return storetest.Open(t, o), o
}

func backup(t *testing.T, s *store.Store) []byte {
	t.Helper()
	var out bytes.Buffer
	info, err := s.Backup(context.Background(), &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info.Bytes != int64(out.Len()) {
		t.Errorf("the backup is said to have %d bytes and has %d", info.Bytes, out.Len())
	}
	read, err := store.CheckBackup(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(info, read); diff != "" {
		t.Errorf("what is written is not what is read (-written +read):\n%s", diff)
	}
	return out.Bytes()
}

func restore(s *store.Store, from []byte) error {
	_, err := s.Restore(context.Background(), bytes.NewReader(from), nil)
	return err
}

// raw is everything in the store, byte for byte, with a mark at what expires.
func raw(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	client, key := s.Etcd()
	resp, err := client.Get(context.Background(), key(""), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		value := string(kv.Value)
		if kv.Lease != 0 {
			value = "(expires) " + value
		}
		out[strings.TrimPrefix(string(kv.Key), key(""))] = value
	}
	return out
}

// fill puts one of everything into a store.
func fill(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := context.Background()
	node := resource(t, nodeKey("m", "n"), 7)
	node.Tags = []api.TagRef{{Key: "a", Value: "<&>"}, {Key: "b", Value: "ü"}}
	node.Owner = "999988887777"
	theirs := resource(t, api.Key{Owner: "444455556666", Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}, 2)
	m := resource(t, meshKey("m"), 3)
	m.Settings = api.MeshSettings{DefaultRetry: api.DefaultRetryOff, Quotas: api.QuotaSetAWS}
	put(t, s, m, node)
	put(t, s, theirs)
	account := store.AccountScope(owner)
	if _, err := s.Update(ctx, []store.Scope{account, store.MeshScope(owner, "tokens")}, func(tx *store.Tx) error {
		tx.PutRecord(store.Type{Name: "accessKey", Schema: 1}, account.Tail("key", "AKIA"), map[string]any{"sealed": "bytes"})
		tx.Put(resource(t, meshKey("tokens"), 1))
		tx.Claim(store.Token{Key: "token/of me", Fingerprint: "f", Result: json.RawMessage(`{"a":1}`)})
		tx.Outbox([]byte("\x00\xff no text"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// What a newer release wrote is kept as it is.
	rewrite(t, s, "mesh/"+theirs.Key.String(), func(value map[string]any) { value["schema"], value["later"] = 9, []any{1} })
	write(t, s, false, store.Op{Key: "endpoints/q", Value: []byte("10.0.0.1:80")})
	write(t, s, false, store.Op{Key: "ledger/replicas/a", Value: []byte("old")})
	write(t, s, true, store.Op{Key: "ledger/nodes/a", Value: []byte("old")}, store.Op{Key: "keys/a", Value: []byte("old")})
}

// What is restored is what was there, save what was said of replicas and
// proxies that lived then; the etcd may be of either form.
func TestBackupAndRestoreKeepEverything(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	want := raw(t, s)
	for _, gone := range []string{"ledger/replicas/a", "ledger/nodes/a", "keys/a"} {
		if want[gone] == "" {
			t.Fatalf("the store has no %s", gone)
		}
		delete(want, gone)
	}
	events := len(want)
	maps.DeleteFunc(want, func(key, _ string) bool { return strings.HasPrefix(key, "outbox/") })
	if events -= len(want); events != 1 {
		t.Fatalf("the store has %d events", events)
	}
	kept := backup(t, s)
	if bytes.Contains(kept, []byte(`"outbox/`)) {
		t.Error("the backup has an event, which may have been delivered")
	}

	e := newExternal(t, nil)
	outside := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}, Prefix: "/another", Restoring: true})
	if err := restore(outside, kept); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, raw(t, outside)); diff != "" {
		t.Errorf("embedded to external (-before +after):\n%s", diff)
	}
	back, o := emptyStore(t)
	if err := restore(back, backup(t, outside)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, raw(t, back)); diff != "" {
		t.Errorf("and back (-before +after):\n%s", diff)
	}

	o.Restoring = false
	again := storetest.Open(t, o)
	got := get(t, again, nodeKey("m", "n"))
	before := get(t, s, got.Key)
	before.Revision = got.Revision // etcd's own counter
	if diff := cmp.Diff(before, got); diff != "" {
		t.Errorf("resource (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(api.MeshSettings{DefaultRetry: api.DefaultRetryOff, Quotas: api.QuotaSetAWS}, get(t, again, meshKey("m")).Settings); diff != "" {
		t.Errorf("the mesh's settings:\n%s", diff)
	}
	if err := raise(again, nodeKey("m", "n")); err != nil {
		t.Errorf("the restored store cannot be written: %v", err)
	}
	if token, err := again.Token(context.Background(), "token/of me"); err != nil || token == nil || string(token.Result) != `{"a":1}` {
		t.Errorf("client token is %v, error %v", token, err)
	}
}

// A backup is of one revision, however many pages it has and whoever writes
// meanwhile.
func TestABackupIsOfOneRevision(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	const nodes = 600 // more than two pages
	all := make([]*api.Resource, nodes)
	for i := range all {
		all[i] = resource(t, nodeKey("m", fmt.Sprintf("n%03d", i)), 1)
	}
	for part := range slices.Chunk(all, 200) {
		put(t, s, part...)
	}
	// The first and the last are always changed together.
	change := func(version int64) {
		first, last := resource(t, all[0].Key, version), resource(t, all[nodes-1].Key, version)
		put(t, s, first, last)
	}
	change(2)
	var once sync.Once
	var out bytes.Buffer
	info, err := s.Backup(context.Background(), &out, func(store.BackupInfo) { once.Do(func() { change(3) }) })
	if err != nil {
		t.Fatal(err)
	}
	if info.Records < nodes {
		t.Fatalf("the backup has %d records", info.Records)
	}
	other, _ := emptyStore(t)
	if err := restore(other, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	first, last := get(t, other, all[0].Key), get(t, other, all[nodes-1].Key)
	if first.Version != 2 || last.Version != 2 {
		t.Errorf("the backup has versions %d and %d, want 2 and 2", first.Version, last.Version)
	}
}

// Nothing is written before the whole file was found to be what was written.
func TestADamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	good := backup(t, s)
	lines := bytes.SplitAfter(good, []byte("\n"))
	lines = lines[:len(lines)-1]
	other, _ := emptyStore(t)
	refused := func(name string, text []byte, says ...string) {
		t.Helper()
		err := restore(other, text)
		if err == nil || !slices.ContainsFunc(says, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%s: got %v, want %q", name, err, says)
		}
	}
	empty := func() { // after all of a kind: whatever one of them had written would be there
		t.Helper()
		if got := raw(t, other); len(got) != 0 {
			t.Fatalf("the store has %v", slices.Collect(maps.Keys(got)))
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x04
		refused(fmt.Sprintf("byte %d is another", i), bad, "damaged", "not a backup", "has format", "cut off")
	}
	empty()
	for i := range lines {
		refused(fmt.Sprintf("line %d is missing", i), bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil), "damaged", "not a backup", "cut off")
		refused(fmt.Sprintf("cut after line %d", i), bytes.Join(lines[:i], nil), "cut off", "not a backup")
	}
	refused("half a line is missing", good[:len(good)-10], "cut off")
	refused("something follows", append(bytes.Clone(good), '\n'), "follows")
	refused("another file", []byte("{\"meshName\":\"m\"}\n"), "not a backup")
	refused("a large file without lines", make([]byte, 20<<20), "not a backup")
	refused("of a later release", reseal(t, good, func(line string) string { return strings.Replace(line, `"format":1`, `"format":2`, 1) }), "format 2")
	empty()
	if err := restore(other, good); err != nil {
		t.Errorf("the good one is refused: %v", err)
	}
}

// reseal changes the lines of a backup and makes its checksum fit again.
func reseal(t *testing.T, text []byte, edit func(line string) string) []byte {
	t.Helper()
	lines := slices.Collect(strings.Lines(string(text)))
	var out bytes.Buffer
	for _, line := range lines[:len(lines)-1] {
		out.WriteString(edit(line))
	}
	sum := sha256.Sum256(out.Bytes())
	fmt.Fprintf(&out, `{"records":%d,"sha256":"%s"}`+"\n", len(lines)-2, hex.EncodeToString(sum[:]))
	return out.Bytes()
}

// Client tokens live for hours: those of an older backup are not brought back.
func TestOldClientTokensAreNotRestored(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	now := time.Now().UTC().Format("2006-01-02")
	old := reseal(t, backup(t, s), func(line string) string { return strings.Replace(line, now, "2020-01-01", 1) })
	other, o := emptyStore(t)
	if err := restore(other, old); err != nil {
		t.Fatal(err)
	}
	for key := range raw(t, other) {
		if strings.HasPrefix(key, "token/") || strings.HasPrefix(key, "outbox/") {
			t.Errorf("%s is back", key)
		}
	}
	o.Restoring = false
	storetest.Open(t, o)
}

// Releases before this one kept events in backups; a restore delivers none again.
func TestEventsInABackupAreNotRestored(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	old := reseal(t, backup(t, s), func(line string) string { return strings.Replace(line, `"key":"token/`, `"key":"outbox/`, 1) })
	if !bytes.Contains(old, []byte(`"outbox/`)) {
		t.Fatal("the backup has no event")
	}
	other, _ := emptyStore(t)
	if err := restore(other, old); err != nil {
		t.Fatal(err)
	}
	for key := range raw(t, other) {
		if strings.HasPrefix(key, "outbox/") {
			t.Errorf("%s is back", key)
		}
	}
}

// Where the master key is lost, everything but the accounts comes back.
func TestRestoreWithoutAccounts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	other, _ := emptyStore(t)
	info, err := other.Restore(context.Background(), bytes.NewReader(backup(t, s)), nil, "account/")
	if err != nil {
		t.Fatal(err)
	}
	got := raw(t, other)
	for key := range got {
		if strings.Contains(key, "account/") || strings.HasSuffix(key, "heads/account") {
			t.Errorf("%s is back", key)
		}
	}
	if info.Records != len(got) || len(got) < 7 {
		t.Errorf("%d records are said to be restored, %d are there", info.Records, len(got))
	}
	if r := get(t, other, nodeKey("m", "n")); r == nil || r.Version != 7 {
		t.Errorf("the node is %v", r)
	}
}

func TestRestoreWantsAnEmptyStore(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	fill(t, s)
	text := backup(t, s)
	for name, c := range map[string]struct {
		fill func(s *store.Store)
		want string
	}{
		"it is what was backed up": {func(s *store.Store) {
			if err := restore(s, text); err != nil {
				t.Fatal(err)
			}
		}, "not empty (it has account/" + owner + "/key/AKIA)"},
		"another mesh": {func(s *store.Store) { put(t, s, resource(t, meshKey("a"), 1)) }, "not empty (it has head)"},
		"a replica":    {func(s *store.Store) { write(t, s, true, store.Op{Key: "ledger/replicas/b", Value: []byte("1")}) }, "a replica runs on this store"},
	} {
		other, _ := emptyStore(t)
		c.fill(other)
		before := raw(t, other)
		var refusal *store.NotEmpty
		if err := restore(other, text); !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if diff := cmp.Diff(before, raw(t, other)); diff != "" {
			t.Errorf("%s: the store was changed:\n%s", name, diff)
		}
	}
}

// cutting is a file whose second reading ends in the middle.
type cutting struct {
	*bytes.Reader
	after int64 // bytes of the second reading
	seeks int
}

func (c *cutting) Seek(offset int64, whence int) (int64, error) {
	c.seeks++
	return c.Reader.Seek(offset, whence)
}

func (c *cutting) Read(p []byte) (int, error) {
	if c.seeks > 0 {
		if c.after -= int64(len(p)); c.after < 0 {
			return 0, errors.New("the disk is gone")
		}
	}
	return c.Reader.Read(p)
}

// A store that a restore has not finished opens for nothing but another one,
// and that makes it whole.
func TestAnInterruptedRestore(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	var all []*api.Resource
	for i := range 300 {
		r := resource(t, nodeKey("m", fmt.Sprintf("n%03d", i)), 1)
		r.Document = []byte(`{"pad":"` + strings.Repeat("x", 70<<10) + `"}`)
		all = append(all, r)
	}
	for part := range slices.Chunk(all, 50) {
		put(t, s, part...)
	}
	fill(t, s)
	text := backup(t, s)
	other, o := emptyStore(t)
	_, err := other.Restore(context.Background(), &cutting{Reader: bytes.NewReader(text), after: 20 << 20}, nil)
	if err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Fatalf("got error %v", err)
	}
	if n := len(raw(t, other)); n < 2 || n > 250 {
		t.Fatalf("the store holds %d keys: it is not half full", n)
	}
	o.Restoring = false
	if half, err := store.Open(context.Background(), o); err == nil || !strings.Contains(err.Error(), "run evermeshd restore again") {
		if err == nil {
			half.Close()
		}
		t.Errorf("half a store opens, error %v", err)
	}
	if _, err := other.Backup(context.Background(), io.Discard, nil); err == nil {
		t.Error("half a store is backed up")
	}
	if err := restore(other, text); err != nil {
		t.Fatal(err)
	}
	want := raw(t, s)
	maps.DeleteFunc(want, func(key, _ string) bool {
		return strings.HasPrefix(key, "ledger/") || strings.HasPrefix(key, "keys/") || strings.HasPrefix(key, "outbox/")
	})
	if diff := cmp.Diff(want, raw(t, other)); diff != "" {
		t.Errorf("after the second restore (-want +got):\n%s", diff)
	}
	storetest.Open(t, o)
}

// Of two restores at once one ends, and the store is that one's.
func TestTwoRestoresDoNotMix(t *testing.T) {
	t.Parallel()
	texts := make([][]byte, 2)
	for i := range texts {
		s := storetest.New(t)
		for j := range 250 {
			put(t, s, resource(t, nodeKey("m", fmt.Sprintf("n%d-%d", i, j)), 1))
		}
		texts[i] = backup(t, s)
	}
	other, o := emptyStore(t)
	rival := storetest.Open(t, o)
	var once sync.Once
	var second error
	_, err := other.Restore(context.Background(), bytes.NewReader(texts[0]), func(store.BackupInfo) {
		once.Do(func() { second = restore(rival, texts[1]) })
	})
	if err == nil || !strings.Contains(err.Error(), "another restore") || second != nil {
		t.Errorf("the first ends with %v, the second with %v", err, second)
	}
	for key := range raw(t, other) {
		if strings.Contains(key, "/n0-") {
			t.Errorf("%s of the first is there", key)
		}
	}
	if got := get(t, other, nodeKey("m", "n1-249")); got == nil {
		t.Error("the second's is not there")
	}
}

// Whoever writes while a restore runs makes it fail, not pass.
func TestARestoreNoticesOthers(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for j := range 250 {
		put(t, s, resource(t, nodeKey("m", fmt.Sprintf("n%d", j)), 1))
	}
	text := backup(t, s)
	other, o := emptyStore(t)
	rival := storetest.Open(t, o)
	var once sync.Once
	_, err := other.Restore(context.Background(), bytes.NewReader(text), func(store.BackupInfo) {
		once.Do(func() { put(t, rival, resource(t, nodeKey("z", "n"), 1)) })
	})
	if err == nil || !strings.Contains(err.Error(), "somebody else writes") {
		t.Errorf("got %v", err)
	}
	o.Restoring = false
	if half, err := store.Open(context.Background(), o); err == nil {
		half.Close()
		t.Error("the store opens")
	}
}

// An etcd that compacts what is being read ends the backup with a reason.
func TestABackupThatWasCompactedAway(t *testing.T) {
	t.Parallel()
	e := newExternal(t, func(*embed.Config) {})
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
	for j := range 300 {
		put(t, s, resource(t, nodeKey("m", fmt.Sprintf("n%d", j)), 1))
	}
	client, _ := s.Etcd()
	var once sync.Once
	var out bytes.Buffer
	_, err := s.Backup(context.Background(), &out, func(info store.BackupInfo) {
		once.Do(func() {
			put(t, s, resource(t, nodeKey("m", "more"), 1))
			if _, err := client.Compact(context.Background(), info.Revision+1); err != nil {
				t.Error(err)
			}
		})
	})
	if err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("got %v", err)
	}
	if _, err := store.CheckBackup(&out); err == nil {
		t.Error("what was written passes for a backup")
	}
}
