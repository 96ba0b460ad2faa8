package iam_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
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

// addMaster adds a key to a master key file, the one of byte b.
func addMaster(t *testing.T, file string, b byte) {
	t.Helper()
	text := read(t, file) + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// announced waits until a replica says that it accepts so many master keys: it
// has ended the round in which it took them.
func announced(t *testing.T, s *store.Store, replica string, keys int) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%s says that it accepts %d keys", replica, keys), func() bool {
		rows, err := s.Read(context.Background(), "keys/"+replica)
		if err != nil {
			t.Fatal(err)
		}
		var row struct{ MasterKeys []string }
		value := rows["keys/"+replica]
		return value != nil && json.Unmarshal(value, &row) == nil && len(row.MasterKeys) == keys
	})
}

// Only the watch says which keys there are. Had the one that follows the master
// key file a say too, what it read before a reset could come after what the watch
// told of it: the old root key would be accepted again and the new one refused.
func TestANewMasterKeyLeavesToTheWatchWhichKeysThereAre(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	c := replica(stores[0], dir)
	c.Replica = "one"
	k := open(t, c)
	old := rootOf(t, filepath.Join(dir, "credentials"))
	fresh, err := manage(t, stores[1], dir).ResetRoot(context.Background(), first)
	if err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { k.FollowMaster(ctx) })
	announced(t, stores[1], "one", 1)
	addMaster(t, filepath.Join(dir, "master-key"), 9)
	announced(t, stores[1], "one", 2)
	stop()
	following.Wait()
	serves(t, k, old)
	if _, ok := known(t, k, fresh.ID); ok {
		t.Error("a key is known that the watch has not told of")
	}
	if got := rootOf(t, filepath.Join(dir, "credentials")); got.ID != old.ID {
		t.Error("the credentials file has another key than the one that is known")
	}

	run(t, k)
	testenv.Eventually(t, "the watch tells of the reset", func() bool {
		_, before := known(t, k, old.ID)
		_, now := known(t, k, fresh.ID)
		return now && !before && rootOf(t, filepath.Join(dir, "credentials")).ID == fresh.ID
	})
}

// A key that cannot be read is known as soon as the file has what opens it.
func TestAMasterKeyThatComesLaterOpensWhatIsThere(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	one, two := t.TempDir(), t.TempDir()
	c := replica(stores[0], one)
	c.Replica = "one"
	k := open(t, c)
	run(t, k)
	copyFile(t, filepath.Join(one, "master-key"), filepath.Join(two, "master-key"))
	verb := manage(t, stores[1], two)
	if _, err := verb.Box().Rotate(context.Background(), places(), seal.RotateOptions{Alone: true, Say: func(string) {}}); err != nil {
		t.Fatal(err)
	}
	fresh, err := verb.ResetRoot(context.Background(), first)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the new key is refused, as it cannot be read", func() bool {
		_, _, err := k.Credential(context.Background(), fresh.ID, "")
		return err != nil
	})
	both := slices.Concat(lines(t, filepath.Join(one, "master-key")), lines(t, filepath.Join(two, "master-key")))
	if err := os.WriteFile(filepath.Join(one, "master-key"), []byte(both[0]+"\n"+both[1]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	announced(t, stores[1], "one", 2)
	serves(t, k, fresh)
	testenv.Eventually(t, "the credentials file has it", func() bool { return rootOf(t, filepath.Join(one, "credentials")).ID == fresh.ID })
}

// A replica that runs counts also when it never said which keys it accepts; one
// that ended long ago does not.
func TestRotateWaitsForAReplicaThatHasSaidNothing(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	open(t, replica(s, dir))
	row := func(id string, seen time.Time) {
		t.Helper()
		value, err := json.Marshal(api.Replica{ID: id, SeenAt: api.Timestamp{Time: seen}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Write(context.Background(), false, []store.Op{{Key: "ledger/replicas/" + id, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	row("two", time.Now())
	row("gone", time.Now().Add(-time.Minute))
	k := manage(t, s, dir)
	o := seal.RotateOptions{Wait: 50 * time.Millisecond, Say: func(string) {}}
	n, err := k.Box().Rotate(context.Background(), places(), o)
	if err == nil || n != 0 || !strings.Contains(err.Error(), "two (which has not said") || strings.Contains(err.Error(), "gone") {
		t.Fatalf("sealed %d, error %v", n, err)
	}
	row("two", time.Now().Add(-time.Minute))
	if n, err := k.Box().Rotate(context.Background(), places(), o); n != 2 || err != nil {
		t.Errorf("sealed %d, error %v; want 2", n, err)
	}
}

// One key that cannot be read keeps no replica from starting, unless it is the
// root key of the first account.
func TestAStartNeedsOnlyTheFirstRootKey(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	k := open(t, replica(s, dir))
	root := rootOf(t, filepath.Join(dir, "credentials"))
	other, err := k.AddAccount(context.Background(), "111122223333")
	if err != nil {
		t.Fatal(err)
	}
	damage := func(account string, key iam.AccessKey) {
		t.Helper()
		scope := store.AccountScope(account)
		if _, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
			tx.PutRecord(store.Type{Name: "accessKey", Schema: 1}, scope.Tail("key", key.ID), map[string]any{"secret": map[string]any{"masterKey": "00"}})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	damage("111122223333", other)
	var log bytes.Buffer
	var mu sync.Mutex
	c := replica(s, dir)
	c.Log = newLog(&mu, &log)
	k = open(t, c)
	serves(t, k, root)
	if _, _, err := k.Credential(context.Background(), other.ID, ""); err == nil {
		t.Error("a key that cannot be read is not refused")
	}
	if !strings.Contains(log.String(), other.ID) {
		t.Errorf("the log does not tell of it:\n%s", log.String())
	}
	// It is replaced as any other.
	fresh, err := manage(t, s, dir).ResetRoot(context.Background(), "111122223333")
	if err != nil {
		t.Fatal(err)
	}
	serves(t, open(t, c), root, fresh)

	damage(first, root)
	var wrong *seal.MasterKeyError
	if _, err := iam.Open(context.Background(), c); !errors.As(err, &wrong) {
		t.Errorf("without the first root key: %v", err)
	}
	if _, err := iam.Manage(context.Background(), c); !errors.As(err, &wrong) {
		t.Errorf("a command without the first root key: %v", err)
	}
}
