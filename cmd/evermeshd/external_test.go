package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/testenv"
)

// etcd is an external one.
type etcd struct {
	config   *embed.Config
	server   *embed.Etcd
	endpoint string
}

func newEtcd(t *testing.T) *etcd {
	t.Helper()
	address := testenv.FreeAddress(t)
	sockets, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: filepath.Join(sockets, "p")}}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "p")}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: address}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.UnsafeNoFsync, c.TickMs, c.ElectionMs = true, 10, 100
	e := &etcd{config: c, endpoint: "http://" + address}
	t.Cleanup(e.stop)
	return e
}

func (e *etcd) start(t *testing.T) *etcd {
	t.Helper()
	server, err := embed.StartEtcd(e.config)
	if err != nil {
		t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	e.server = server
	return e
}

func (e *etcd) stop() {
	if e.server != nil {
		e.server.Close()
		e.server = nil
	}
}

// masterKey writes one and returns the file.
func masterKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "master-key")
	if err := os.WriteFile(file, []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A replica whose etcd is gone ends promptly when it is told to.
func TestStopsPromptlyWithoutItsEtcd(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	p := start(t, t.TempDir(), "--drain-seconds", "0", "--etcd-endpoints", e.endpoint, "--master-key-file", masterKey(t))
	if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	e.stop()
	// Calls that wait for the store do not hold the end up.
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			if err := p.call(t.Context(), "DescribeMesh", api.DescribeMeshInput{MeshName: "apps"}, nil); err == nil {
				t.Error("a read succeeds without a store")
			}
		})
	}
	defer calls.Wait()
	eventually(t, "/readyz says why", func() bool {
		status, body := p.get(t, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "store")
	})
	begin := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d, want 0:\n%s", code, p.said(t))
	}
	// Without a store it waits for a few seconds in all, with one it would let the drain
	// have its ten. A busy machine may make either take longer; that it looked, and took
	// the short way, is in its log.
	if !strings.Contains(p.said(t), "until it is forgotten, as the store does not answer") {
		t.Errorf("it did not notice that its store is gone:\n%s", p.said(t))
	}
	t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
}

// An etcd that comes after evermeshd is waited for, with a word at once.
func TestWaitsForItsEtcd(t *testing.T) {
	t.Parallel()
	e := newEtcd(t)
	begin := time.Now()
	p := launch(t, t.TempDir(), "--etcd-endpoints", e.endpoint, "--master-key-file", masterKey(t))
	eventually(t, "it says that it waits", func() bool { return strings.Contains(p.said(t), "etcd does not answer and is waited for") })
	t.Logf("said after %v", time.Since(begin).Round(time.Millisecond))
	if said := p.said(t); !strings.Contains(said, e.endpoint) || !strings.Contains(said, "connection refused") {
		t.Errorf("neither where nor why is said:\n%s", said)
	}
	e.start(t)
	up := regexp.MustCompile(`msg="control plane is up"`)
	eventually(t, "it is up", func() bool { return up.MatchString(p.said(t)) })

	other := newEtcd(t)
	p = launch(t, t.TempDir(), "--etcd-endpoints", other.endpoint, "--master-key-file", masterKey(t))
	eventually(t, "it says that it waits", func() bool { return strings.Contains(p.said(t), "is waited for") })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d while it waits, want 0:\n%s", code, p.said(t))
	}
}

// Embedded to external: what was made with the one is served from the other,
// under the same keys.
func TestMovesToAnExternalEtcd(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	p := start(t, dir)
	if err := p.call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	var before, after api.DescribeMeshOutput
	if err := p.call(ctx, "DescribeMesh", api.DescribeMeshInput{MeshName: "apps"}, &before); err != nil {
		t.Fatal(err)
	}
	e := newEtcd(t).start(t)
	file := filepath.Join(t.TempDir(), "backup")
	run1 := func(want int, args ...string) {
		t.Helper()
		if want == 0 { // again where a store is slow to answer
			eventually(t, "evermeshd "+strings.Join(args, " ")+" succeeds", func() bool { return run(context.Background(), args) == 0 })
			return
		}
		if got := run(context.Background(), args); got != want {
			t.Fatalf("evermeshd %s: exit code %d, want %d", strings.Join(args, " "), got, want)
		}
	}
	run1(0, "backup", "--data-dir", dir, file)
	run1(0, "restore", "--etcd-endpoints", e.endpoint, file)
	run1(1, "restore", "--etcd-endpoints", e.endpoint, file)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.exit(t)
	p = start(t, dir, "--etcd-endpoints", e.endpoint, "--master-key-file", filepath.Join(dir, "master-key"))
	if err := p.call(ctx, "DescribeMesh", api.DescribeMeshInput{MeshName: "apps"}, &after); err != nil {
		t.Fatal(err)
	}
	if b, a := before.Mesh.Metadata, after.Mesh.Metadata; a.UID != b.UID || a.Version != b.Version || a.CreatedAt != b.CreatedAt {
		t.Errorf("metadata was %+v and is %+v", b, a)
	}
	// A restore while a replica runs on the store is refused, and so is one that
	// comes after another.
	run1(1, "restore", "--etcd-endpoints", e.endpoint, file)
	run1(0, "backup", "--etcd-endpoints", e.endpoint, file)
}

// The master key changes under two replicas with key files of their own, and
// neither refuses a call meanwhile.
func TestRotatesTheMasterKeyUnderTwoReplicas(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	var keys []string
	var planes []*plane
	for range 2 {
		keys = append(keys, masterKey(t))
		planes = append(planes, start(t, t.TempDir(), "--etcd-endpoints", e.endpoint, "--master-key-file", keys[len(keys)-1]))
	}
	ctx, stop := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	t.Cleanup(func() {
		stop()
		calls.Wait()
	})
	for i, p := range planes {
		calls.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := p.call(t.Context(), "ListMeshes", api.ListMeshesInput{}, nil); err != nil {
					t.Errorf("call %d of replica %d: %v", n, i, err)
					return
				}
			}
		})
	}
	// It is run again, as it tells people to, where the store is slow to answer.
	rotate := func(args ...string) int {
		return run(t.Context(), append([]string{"rotate-master-key", "--etcd-endpoints", e.endpoint, "--master-key-file", keys[0]}, args...))
	}
	copyKey := func() {
		t.Helper()
		text, err := os.ReadFile(keys[0])
		if err == nil {
			err = writeWhole(keys[1], func(w io.Writer) error { _, err := w.Write(text); return err })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a key is added, which the other replica has not got", func() bool {
		if code := rotate("--wait", "100ms"); code != exitFailure {
			t.Fatalf("exit code %d, want %d", code, exitFailure)
		}
		text, err := os.ReadFile(keys[0])
		return err == nil && strings.Count(string(text), "\n") == 2
	})
	copyKey()
	eventually(t, "the key is another", func() bool { return rotate() == 0 })
	copyKey()
	eventually(t, "both replicas have read the new key alone", func() bool {
		return strings.Contains(planes[0].said(t), "keys=1") && strings.Contains(planes[1].said(t), "keys=1")
	})
	stop()
	calls.Wait()
	// With the new key alone both start again, and with the old one nobody does.
	for i, p := range planes {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.exit(t)
		again := start(t, p.dir, "--etcd-endpoints", e.endpoint, "--master-key-file", keys[i])
		if err := again.call(t.Context(), "ListMeshes", api.ListMeshesInput{}, nil); err != nil {
			t.Errorf("replica %d after a restart: %v", i, err)
		}
	}
	old := launch(t, t.TempDir(), "--etcd-endpoints", e.endpoint, "--master-key-file", masterKey(t))
	if code := old.exit(t); code != exitUsage {
		t.Errorf("with the old key: exit code %d, want %d:\n%s", code, exitUsage, old.said(t))
	}
}
