package envoy_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// TestFilesChange shows what makes Envoy read the files of a secret again, in
// the oldest and the newest version.
func TestFilesChange(t *testing.T) {
	t.Parallel()
	for _, binary := range validators(t) {
		t.Run(envoytest.Version(t, binary), func(t *testing.T) {
			t.Parallel()
			l := newTLSLab(t, binary, "traffic_tls")
			l.nodes = map[string]netip.Addr{"strict": l.nodes["strict"]}
			now := 0
			next := func() (sdstest.Certificate, string) {
				now++
				name := string(rune('a'+now)) + ".local"
				return l.root.Issue(t, name), name
			}
			shows := func(name string) bool { return leaf(t, l.nodes["strict"], 9080) == name }
			within := func(what, name string) {
				t.Helper()
				testenv.Eventually(t, what, func() bool { return shows(name) })
			}

			// As Kubernetes mounts a secret: files that point into a directory that a
			// link names.
			dir := filepath.Join(l.dir, "certs")
			mount := func(c sdstest.Certificate, as string) {
				if err := os.MkdirAll(filepath.Join(dir, as), 0o700); err != nil {
					t.Fatal(err)
				}
				c.Write(t, filepath.Join(dir, as), "tls")
				link(t, as, filepath.Join(dir, "..data"))
			}
			first, name := next()
			mount(first, "..1")
			for _, file := range []string{"tls.pem", "tls.key"} {
				if err := os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			l.files("file-certificate:/certs/strict.pem:/certs/strict.key", filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key"))
			servers := l.servers(t)
			within("the first certificate is shown", name)

			swapped, name := next()
			mount(swapped, "..2")
			within("a link that is moved is followed", name)

			renamed, name := next()
			for file, text := range map[string][]byte{"tls.pem": renamed.Chain, "tls.key": renamed.Key} {
				beside := filepath.Join(dir, file+".new")
				if err := os.WriteFile(beside, text, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(beside, filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			within("files that are moved there are read", name)

			// Written in place it is noticed with the next move alone.
			written, later := next()
			written.Write(t, dir, "tls")
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for range 20 {
				<-tick.C
				if !shows(name) {
					t.Fatal("what is written in place is shown: the comment in secret.go is wrong")
				}
			}
			link(t, "tls.pem", filepath.Join(dir, "other"))
			within("the next move has them read", later)
			if n := servers.stat(t, "listener_manager.listener_modified") + servers.stat(t, "listener_manager.total_listeners_draining"); n > 0 {
				t.Errorf("%d listeners were changed or drain", n)
			}
		})
	}
}

// link makes or moves a link in one step.
func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
