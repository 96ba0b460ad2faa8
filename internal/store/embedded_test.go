package store_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// startServer starts an etcd that the test stops itself.
func startServer(t *testing.T, o store.ServerOptions) *store.Server {
	t.Helper()
	o.Test = true
	if o.MinFree == 0 {
		o.MinFree = 1
	}
	server, err := store.StartServer(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func closeServer(t *testing.T, s *store.Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// With the settings that evermeshd has, in a directory whose path is too long
// for a socket.
func TestARestartKeepsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	var log bytes.Buffer
	var want *api.Resource
	for start := range 3 {
		s, err := store.Open(context.Background(), store.Options{DataDir: dir, Prefix: "/evermesh", Timeout: testenv.Patience, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ready(context.Background()); err != nil {
			t.Errorf("start %d: not ready: %v", start, err)
		}
		if start == 0 {
			want = resource(t, nodeKey("m", "n"), 1)
			want.Revision = put(t, s, want)
			write(t, s, false, store.Op{Key: "endpoints/a", Value: []byte("1")})
		}
		if diff := cmp.Diff(want, get(t, s, want.Key)); diff != "" {
			t.Errorf("start %d (-want +got):\n%s", start, diff)
		}
		if got := rows(t, s, "endpoints/"); got["endpoints/a"] != "1" {
			t.Errorf("start %d: rows are %v", start, got)
		}
		if err := raise(s, want.Key); err != nil {
			t.Error(err)
		}
		want = get(t, s, want.Key)
		if want.Version != int64(start+2) {
			t.Errorf("start %d: version is %d", start, want.Version)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "took too long") && !strings.Contains(line, "slow") { // of a busy disk
			t.Errorf("etcd warns in quiet times: %s", line)
		}
	}
}

func TestASecondProcessIsToldWhoHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	server := startServer(t, store.ServerOptions{Dir: dir})
	start := time.Now()
	_, err := store.Open(context.Background(), store.Options{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "in use by process ") {
		t.Errorf("got error %v", err)
	}
	if took := time.Since(start); took > testenv.Patience {
		t.Errorf("the refusal took %v", took)
	}
	closeServer(t, server)
	closeServer(t, startServer(t, store.ServerOptions{Dir: dir}))
}

// Below the least free space nothing is written and everything is read.
func TestAnAlmostFullDisk(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	server := startServer(t, store.ServerOptions{Dir: dir})
	s, err := store.Open(ctx, store.Options{Server: server})
	if err != nil {
		t.Fatal(err)
	}
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	closeServer(t, server)

	server = startServer(t, store.ServerOptions{Dir: dir, MinFree: 1 << 62})
	defer closeServer(t, server)
	s = storetest.Open(t, store.Options{Server: server})
	defer s.Close()
	if err := raise(s, key); !isAPI(err, api.CodeServiceUnavailable) || !strings.Contains(err.Error(), "almost full") {
		t.Errorf("update gets %v", err)
	}
	if err := s.Write(ctx, true, []store.Op{{Key: "ledger/x", Value: []byte("1")}}); !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("row gets %v", err)
	}
	if got := get(t, s, key); got == nil || got.Version != 1 {
		t.Errorf("read gets %v", got)
	}
	if err := s.Ready(ctx); err == nil || !strings.Contains(err.Error(), "almost full") {
		t.Errorf("readiness is %v", err)
	}
}

func TestNobodyCanConnectFromOutside(t *testing.T) {
	before := listening(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	server := startServer(t, store.ServerOptions{Dir: t.TempDir()})
	defer closeServer(t, server)
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("the temporary directory holds %v, error %v", left, err)
	}
	if after := listening(t); after > before {
		t.Errorf("%d TCP sockets listen, %d before", after, before)
	}
	text, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	mine := sockets(t)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 7 && f[3] == "00010000" && mine[f[6]] && strings.HasPrefix(f[7], "@") {
			t.Errorf("any user may connect to %s", f[7])
		}
	}
}

// listening counts the TCP sockets in this network namespace that this process
// listens on.
func listening(t *testing.T) int {
	t.Helper()
	mine := sockets(t)
	n := 0
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && mine[f[9]] {
				n++
			}
		}
	}
	return n
}

// sockets are the inodes of this process's sockets.
func sockets(t *testing.T) map[string]bool {
	t.Helper()
	mine := map[string]bool{}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			mine[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	return mine
}

func TestTheServerCanBeDefragmented(t *testing.T) {
	server := startServer(t, store.ServerOptions{Dir: t.TempDir()})
	defer closeServer(t, server)
	s, err := store.Open(context.Background(), store.Options{Server: server})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	client, _ := s.Etcd()
	size := func() int64 {
		t.Helper()
		status, err := client.Status(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		return status.DbSize
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	for range 16 {
		write(t, s, false, store.Op{Key: "endpoints/x", Value: big})
	}
	resp, err := client.Get(ctx, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	before := max(size(), 16<<20)
	deadline := time.After(patience)
	for { // etcd counts what is free when it commits a write, every 100 ms
		write(t, s, false, store.Op{Key: "endpoints/y", Value: []byte("1")})
		if err := server.Defragment(ctx, 1<<20); err != nil {
			t.Fatal(err)
		}
		after := size()
		if after < before/2 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("size was %d and is %d", before, after)
		}
	}
	if got := rows(t, s, "endpoints/x"); len(got["endpoints/x"]) != len(big) {
		t.Error("what is stored is not whole")
	}
}

// At its quota the store takes no writes, says so, and recovers by itself where
// the quota is used up by what is gone.
func TestAStoreAtItsQuota(t *testing.T) {
	var log testenv.Output
	server := startServer(t, store.ServerOptions{Dir: t.TempDir(), Quota: 16 << 20, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer closeServer(t, server)
	s, err := store.Open(context.Background(), store.Options{Server: server, Timeout: testenv.Patience})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	big := bytes.Repeat([]byte("x"), 1<<20)
	err = nil
	for end := time.Now().Add(patience); err == nil && time.Now().Before(end); {
		err = s.Write(ctx, false, []store.Op{{Key: "endpoints/x", Value: big}})
	}
	if !isAPI(err, api.CodeServiceUnavailable) || !strings.Contains(err.Error(), "full") {
		t.Fatalf("a write at the quota gets %v", err)
	}
	if got := get(t, s, key); got == nil || got.Version != 1 {
		t.Errorf("a read gets %v", got)
	}
	// Nobody is asked for anything.
	deadline := time.After(patience)
	for version := int64(2); ; {
		if err := raise(s, key); err == nil {
			if got := get(t, s, key); got.Version != version {
				t.Errorf("version is %d, want %d", got.Version, version)
			}
			break
		} else if !isAPI(err, api.CodeServiceUnavailable) {
			t.Fatalf("a write gets %v", err)
		}
		if err := s.Ready(ctx); err != nil && !strings.Contains(err.Error(), "full") {
			t.Errorf("readiness is %v", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("no write succeeds any more:\n%s", log.String())
		}
	}
	if err := s.Ready(ctx); err != nil {
		t.Errorf("not ready: %v", err)
	}
	testenv.Eventually(t, "that is said, after it is so", func() bool { return strings.Contains(log.String(), "takes writes again") })
	if got := rows(t, s, "endpoints/x"); len(got["endpoints/x"]) != len(big) {
		t.Error("what is stored is not whole")
	}
}

// A data directory that is not whole is named at once, and nothing is made of it.
func TestDamagedDataDirectories(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, member string)
		says   string
	}{
		"no log": {func(t *testing.T, member string) {
			logs, _ := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
			for _, f := range logs {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}, "etcd's log is missing"},
		"a damaged log": {func(t *testing.T, member string) {
			logs, _ := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
			f, err := os.OpenFile(logs[0], os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 500), 200); err != nil {
				t.Fatal(err)
			}
		}, "crc mismatch"},
		"a damaged database": {func(t *testing.T, member string) {
			f, err := os.OpenFile(filepath.Join(member, "snap", "db"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			// Both copies of the head stay, and every other page loses its own.
			for at := int64(2 * os.Getpagesize()); at < info.Size(); at += int64(os.Getpagesize()) {
				if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 64), at); err != nil {
					t.Fatal(err)
				}
			}
		}, "is damaged"},
		"no database": {func(t *testing.T, member string) {
			if err := os.WriteFile(filepath.Join(member, "snap", "db"), bytes.Repeat([]byte("x"), 1<<15), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is damaged"},
		"a file instead of the directory": {func(t *testing.T, member string) {
			etcd := filepath.Dir(member)
			if err := os.RemoveAll(etcd); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(etcd, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := store.Open(context.Background(), store.Options{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, resource(t, nodeKey("m", "n"), 1))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, filepath.Join(dir, "etcd", "member"))
			start := time.Now()
			s, err = store.Open(context.Background(), store.Options{DataDir: dir})
			if err == nil {
				s.Close()
				t.Fatal("it opens")
			}
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > testenv.Patience {
				t.Errorf("it took %v", took)
			}
		})
	}
}
