package store_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Another process of the same user, and of nobody else, reaches the embedded
// etcd, however long the path of its data directory is.
func TestAnotherProcessReachesTheEmbeddedEtcd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	for range 2 { // the second start finds the socket of the first, as after a kill
		server := startServer(t, store.ServerOptions{Dir: dir})
		name := filepath.Join(dir, "etcd.sock")
		if info, err := os.Stat(name); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Fatalf("socket: %v, %v; want mode 0600", info, err)
		}
		own := storetest.Open(t, store.Options{Server: server, Prefix: "/evermesh"})
		other, err := store.Open(context.Background(), store.Options{DataDir: dir, Attach: true, Prefix: "/evermesh"})
		if err != nil {
			t.Fatal(err)
		}
		key := nodeKey("m", "n")
		put(t, other, resource(t, key, 1))
		if diff := cmp.Diff(get(t, own, key), get(t, other, key)); diff != "" {
			t.Errorf("the two see different things (-own +other):\n%s", diff)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		if err := own.Close(); err != nil {
			t.Error(err)
		}
		closeServer(t, server)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("the data directory holds %v, want etcd and lock; error %v", left, err)
		}
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		if err := os.Rename(l.Addr().String(), name); err != nil {
			t.Fatal(err)
		}
	}
	// With nobody there, the directory is the caller's own.
	s, err := store.Open(context.Background(), store.Options{DataDir: dir, Attach: true})
	if err != nil {
		t.Fatal(err)
	}
	var taken *store.InUse
	if _, err := store.Open(context.Background(), store.Options{DataDir: dir}); !errors.As(err, &taken) || taken.Dir != dir {
		t.Errorf("without Attach: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A process that has the data directory and does not answer is told of within
// the bound.
func TestTheOtherProcessDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, store.ServerOptions{Dir: dir})
	defer closeServer(t, server)
	if err := os.Remove(filepath.Join(dir, "etcd.sock")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := store.Open(context.Background(), store.Options{DataDir: dir, Attach: true, Timeout: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "in use by process") || !strings.Contains(err.Error(), "etcd.sock") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > testenv.Patience {
		t.Errorf("it took %v", took)
	}
}

// What was killed while it bound its socket leaves a directory, which goes with
// the next start; what has another name is somebody else's.
func TestAStartRemovesSocketDirectoriesOfAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".socket-123", ".socket-456", "sockets"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "etcd.sock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	closeServer(t, startServer(t, store.ServerOptions{Dir: dir}))
	left, err := filepath.Glob(filepath.Join(dir, "*socket*"))
	if diff := cmp.Diff([]string{filepath.Join(dir, "sockets")}, left); diff != "" || err != nil {
		t.Errorf("left (-want +got), error %v:\n%s", err, diff)
	}
}
