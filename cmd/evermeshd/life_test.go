package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/store"
)

// within bounds everything that these tests wait for.
const within = 30 * time.Second

// plane is a control plane that runs as a process of its own.
type plane struct {
	cmd   *exec.Cmd
	dir   string
	log   string // file with what it said on stderr
	admin string // http://127.0.0.1:41234
	ended chan error
}

// launch starts evermeshd on a data directory.
func launch(t *testing.T, dir string, args ...string) *plane {
	t.Helper()
	return launchWith(t, dir, nil, args...)
}

// launchWith is launch with further variables.
func launchWith(t *testing.T, dir string, env []string, args ...string) *plane {
	t.Helper()
	p := &plane{dir: dir, log: filepath.Join(t.TempDir(), "log"), ended: make(chan error, 1)}
	stderr, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	p.cmd = exec.Command(self(t), append([]string{
		"serve", "--data-dir", dir, "--drain-seconds", "1",
		"--api-listen", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
	}, args...)...)
	p.cmd.Stderr, p.cmd.Env = stderr, append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() {
		if p.cmd.Process.Kill() == nil {
			<-p.ended
		}
	})
	return p
}

// start is launch, and waits until the control plane is up.
func start(t *testing.T, dir string, args ...string) *plane {
	t.Helper()
	return startWith(t, dir, nil, args...)
}

// startWith is start with further variables.
func startWith(t *testing.T, dir string, env []string, args ...string) *plane {
	t.Helper()
	p := launchWith(t, dir, env, args...)
	up := regexp.MustCompile(`msg="control plane is up".* admin=(\S+)`)
	eventually(t, "the control plane is up", func() bool {
		found := up.FindStringSubmatch(p.said(t))
		if found != nil {
			p.admin = "http://" + found[1]
		}
		select {
		case err := <-p.ended:
			p.ended <- err // for the cleanup
			t.Fatalf("evermeshd ended as it started: %v\n%s", err, p.said(t))
		default:
		}
		return found != nil
	})
	return p
}

func (p *plane) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exit waits for the end and returns the exit code.
func (p *plane) exit(t *testing.T) int {
	t.Helper()
	select {
	case err := <-p.ended:
		p.ended <- err // for the cleanup
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("evermeshd has not ended:\n%s", p.said(t))
		return 0
	}
}

// call runs an operation as the first account's root.
func (p *plane) call(ctx context.Context, operation string, in, out any) error {
	c, err := client.Load(ctx, p.dir)
	if err != nil {
		return err
	}
	caller, err := client.New(c)
	if err != nil {
		return err
	}
	return caller.Call(ctx, operation, in, out)
}

func (p *plane) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	r, err := http.Get(p.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not true within %s: %s", within, what)
		}
	}
}

// What was acknowledged is there after a kill and after a polite end, under the
// same key, and a stopped control plane exits with 0.
func TestKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	p := start(t, dir)
	credentials, err := os.ReadFile(filepath.Join(dir, "credentials"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "credentials")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v, %v; want mode 0600", info.Mode(), err)
	}
	if err := p.call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.exit(t)

	p = start(t, dir)
	var out api.DescribeMeshOutput
	if err := p.call(ctx, "DescribeMesh", api.DescribeMeshInput{MeshName: "apps"}, &out); err != nil {
		t.Fatal(err)
	}
	if out.Mesh.MeshName != "apps" || out.Mesh.Metadata.Version != 1 {
		t.Errorf("the mesh came back as %+v", out.Mesh)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0:\n%s", code, p.said(t))
	}
	if again, err := os.ReadFile(filepath.Join(dir, "credentials")); err != nil || string(again) != string(credentials) {
		t.Errorf("the root key is another after a restart (%v)", err)
	}
	if strings.Contains(p.said(t), "level=ERROR") {
		t.Errorf("a polite end is no error:\n%s", p.said(t))
	}
}

func TestTellsHowItIs(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "--log-format", "text", "--access-log", "on")
	if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	if status, body := p.get(t, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %d %q", status, body)
	}
	eventually(t, "/readyz says that the mesh is loaded", func() bool {
		status, body := p.get(t, "/readyz")
		return status == http.StatusOK && strings.Contains(body, `"ready":true`)
	})
	const published = `evermesh_publish_seconds_count{phase="apply"} `
	metrics := ""
	eventually(t, "/metrics has what follows the load", func() bool {
		_, metrics = p.get(t, "/metrics")
		return strings.Contains(metrics, published)
	})
	for _, line := range []string{
		`evermesh_api_requests_total{code="OK",operation="CreateMesh"} 1`,
		"evermesh_store_txn_seconds_count ", "evermesh_store_conflicts_total 0", "evermesh_snapshot_revision ",
		published, "evermesh_build_info{",
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	if said := p.said(t); !strings.Contains(said, "operation=CreateMesh status=200 code=OK") {
		t.Errorf("the access log lacks the request:\n%s", said)
	}
}

// A replica that ends politely leaves the ledger; one that was killed is to
// count as unknown.
func TestLeavesTheLedger(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal syscall.Signal
		want   int
	}{"polite": {syscall.SIGTERM, 0}, "killed": {syscall.SIGKILL, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, t.TempDir())
			eventually(t, "the replica is in the ledger", func() bool {
				var out api.ListProxiesOutput
				return p.call(t.Context(), "ListProxies", api.ListProxiesInput{}, &out) == nil && len(out.Replicas) == 1
			})
			if err := p.cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			p.exit(t)
			s, err := store.Open(t.Context(), store.Options{DataDir: p.dir, Prefix: "/evermesh"})
			if err != nil {
				t.Fatal(err)
			}
			rows, err := s.Read(t.Context(), "ledger/replicas/")
			if err != nil || len(rows) != c.want {
				t.Errorf("%d replicas are in the ledger, want %d; error %v", len(rows), c.want, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who is told to end while it starts has not failed, however far it is.
func TestToldToEndAtItsStart(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"etcd/member/wal", "credentials", client.FactsFile} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			p := launch(t, t.TempDir())
			eventually(t, "there is "+file, func() bool { _, err := os.Stat(filepath.Join(p.dir, file)); return err == nil })
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := p.exit(t); code != 0 {
				t.Errorf("exit code %d:\n%s", code, p.said(t))
			}
		})
	}
}

// A second process on the same data ends at once and says why; it does not wait
// for the first one's lock.
func TestSecondOnTheSameData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir)
	second := launch(t, dir)
	if code := second.exit(t); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if said := second.said(t); !strings.Contains(said, dir) || strings.Count(said, "\n") != 1 {
		t.Errorf("want one line that names the directory, got:\n%s", said)
	}
}

// With another master key nothing that was sealed can be read: that is a fault
// of the configuration, not a new account.
func TestWrongMasterKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.exit(t)
	if err := os.WriteFile(filepath.Join(dir, "master-key"), []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p = launch(t, dir)
	if code := p.exit(t); code != exitUsage {
		t.Errorf("exit code %d, want %d:\n%s", code, exitUsage, p.said(t))
	}
	if said := p.said(t); !strings.Contains(said, "--master-key-file") {
		t.Errorf("the setting is not named:\n%s", said)
	}
}

func TestPortIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := launch(t, t.TempDir(), "--xds-listen", taken.Addr().String())
	if code := p.exit(t); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if said := p.said(t); !strings.Contains(said, "evermeshd: --xds-listen: ") {
		t.Errorf("the setting is not named:\n%s", said)
	}
}

// An address that is not loopback gets a certificate of the control plane's own
// CA (D5), EMS-003.
func TestOwnCertificate_EMS_003(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, "--xds-listen", "0.0.0.0:0")
	facts, pool := p.trusted(t)
	dial := func(c *tls.Config) error {
		conn, err := tls.Dial("tcp", facts.XDSEndpoint, c)
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(&tls.Config{RootCAs: pool}); err != nil {
		t.Errorf("with the control plane's CA: %v", err)
	}
	if err := dial(&tls.Config{}); err == nil {
		t.Error("a stranger's CA is accepted")
	}
	if info, err := os.Stat(filepath.Join(dir, "tls", "ca-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the CA's key: %v, %v; want mode 0600", info, err)
	}
}
