package iam_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
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
	deadline := time.After(20 * time.Second)
	for {
		rows, err := s.Read(context.Background(), "keys/"+replica)
		if err != nil {
			t.Fatal(err)
		}
		var row struct{ MasterKeys []string }
		if value := rows["keys/"+replica]; value != nil && json.Unmarshal(value, &row) == nil && len(row.MasterKeys) == keys {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s does not say that it accepts %d keys", replica, keys)
		}
	}
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
	within(t, "the watch tells of the reset", func() bool {
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
	if _, err := verb.Rotate(context.Background(), iam.RotateOptions{Alone: true, Say: func(string) {}}); err != nil {
		t.Fatal(err)
	}
	fresh, err := verb.ResetRoot(context.Background(), first)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the new key is refused, as it cannot be read", func() bool {
		_, _, err := k.Credential(context.Background(), fresh.ID)
		return err != nil
	})
	both := slices.Concat(lines(t, filepath.Join(one, "master-key")), lines(t, filepath.Join(two, "master-key")))
	if err := os.WriteFile(filepath.Join(one, "master-key"), []byte(both[0]+"\n"+both[1]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	announced(t, stores[1], "one", 2)
	serves(t, k, fresh)
	within(t, "the credentials file has it", func() bool { return rootOf(t, filepath.Join(one, "credentials")).ID == fresh.ID })
}
