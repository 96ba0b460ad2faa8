package agent

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

func TestPlaces(t *testing.T) {
	root := t.TempDir()
	mine, err := placeIn(root)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(root, placePrefix+"left")
	if err := os.MkdirAll(filepath.Join(left, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(root, placePrefix+"foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := os.Chown(foreign, 65534, 65534) == nil // root may
	other := filepath.Join(root, "evermesh-other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(root, placePrefix+"link")); err != nil {
		t.Fatal(err)
	}
	sweepPlaces(root)
	for dir, want := range map[string]bool{mine.dir: true, left: false, other: true, foreign: kept} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", dir, err == nil, want)
		}
	}
	mine.remove()
	if _, err := os.Stat(mine.dir); err == nil {
		t.Error("not removed")
	}
}

// Agents that start and sweep at the same time never lose a place that they have.
func TestPlacesOfMany(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				sweepPlaces(root)
				p, err := placeIn(root)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(p.dir); err != nil {
					t.Error(err)
				}
				p.remove()
			}
		})
	}
	wg.Wait()
}

// What is read-only, or full, is gone around.
func TestReadOnlyAndFull(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags uintptr
		data  string
	}{
		{"read-only", syscall.MS_RDONLY, ""},
		{"full", 0, "size=16k"},
	} {
		t.Run("a directory for temporary files that is "+test.name, func(t *testing.T) {
			dir := agenttest.ShortDir(t)
			if err := syscall.Mount("none", dir, "tmpfs", test.flags, test.data); err != nil {
				t.Skipf("this machine lets nobody but root mount: %v", err)
			}
			defer func() {
				if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			}()
			s := newStub(t, "run")
			p := play(t, &stub{dir: s.dir, lines: append(s.lines, "TMPDIR="+dir, "ENVOY_ADMIN_ACCESS_LOG_FILE="+filepath.Join(dir, "sub", "log"))})
			p.until(t, "ready")
			if !strings.Contains(p.events(), "-c /dev/shm/"+placePrefix) {
				t.Error("want the bootstrap in shared memory")
			}
			p.says(t, "cannot write ENVOY_ADMIN_ACCESS_LOG_FILE")
			p.tell(t, syscall.SIGTERM)
			p.until(t, "POST")
			p.tell(t, syscall.SIGTERM)
			p.ends(t, 0)
		})
	}
}

// An access log that would have the agent or Envoy wait for ever, or write elsewhere, is none.
func TestAccessLogs(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"a pipe that nobody reads": func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"a link":                   func(path string) error { return os.Symlink(path+".there", path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStub(t, "run")
			path := filepath.Join(s.dir, "access.log")
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			own := filepath.Join(s.dir, "bootstrap.yaml")
			p := play(t, &stub{dir: s.dir, lines: append(s.lines, "ENVOY_ADMIN_ACCESS_LOG_FILE="+path, "ENVOY_CONFIG_FILE="+own)})
			p.until(t, "ready")
			if text, err := os.ReadFile(own); err != nil || strings.Contains(string(text), path) || !strings.Contains(string(text), os.DevNull) {
				t.Errorf("Envoy is to write to %s: %v", path, err)
			}
			if _, err := os.Lstat(path + ".there"); err == nil {
				t.Error("the agent wrote behind the link")
			}
			p.tell(t, syscall.SIGTERM)
			p.until(t, "POST")
			p.tell(t, syscall.SIGTERM)
			p.ends(t, 0)
		})
	}
}
