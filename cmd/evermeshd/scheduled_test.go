package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A fresh control plane backs itself up, keeps as many as it is told, closed to
// others, and comes back from the newest.
func TestScheduledBackups(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, "--backup-every", "1s", "--backup-keep", "2")
	t.Run("SEC-003 a start says what is not encrypted", func(t *testing.T) {
		if said := p.said(t); !strings.Contains(said, `level=WARN msg="resources are not encrypted in the store`) {
			t.Errorf("it does not:\n%s", said)
		}
	})
	t.Run("SEC-012 made by itself, and restored", func(t *testing.T) { restoredBackup(t, p) })
}

func restoredBackup(t *testing.T, p *plane) {
	if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	s := scheduled{dir: filepath.Join(p.dir, "backups")}
	seen := map[string]bool{}
	eventually(t, "four backups were made, and two are there", func() bool {
		files, err := s.files()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, f := range files {
			seen[f] = true
		}
		return len(seen) >= 4 && len(files) == 2
	})
	if value(p.scrape(t), "evermesh_backup_last_seconds") < float64(time.Now().Add(-within).Unix()) {
		t.Error("the metric does not say when the last one was made")
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.exit(t)
	files, err := s.files()
	if err != nil {
		t.Fatal(err)
	}
	newest := files[len(files)-1]
	for name, mode := range map[string]os.FileMode{s.dir: 0o700, files[0]: 0o600, newest: 0o600} {
		if at, err := os.Stat(name); err != nil || at.Mode().Perm() != mode {
			t.Errorf("%s (%v) should have mode %v", name, err, mode)
		}
	}
	again := t.TempDir()
	if code := run(t.Context(), []string{"restore", "--data-dir", again, newest}); code != 0 {
		t.Fatalf("restore: exit code %d", code)
	}
	key, err := os.ReadFile(filepath.Join(p.dir, "master-key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(again, "master-key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := start(t, again).call(t.Context(), "DescribeMesh", api.DescribeMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Errorf("the mesh after a restore: %v", err)
	}
}

// clock is what replicas of a test go by.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// read is a gauge's value.
func read(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(g)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

// Of several replicas one makes the backup that is due, and another does when it
// cannot, or has gone.
func TestBackupsOfReplicas(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 3)
	c := &clock{at: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	replica := func(name, dir string) *scheduled {
		return &scheduled{
			store: stores[len(name)%len(stores)], dir: dir, every: time.Hour, keep: 2, replica: name, log: slog.New(slog.DiscardHandler), now: c.now,
			last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "last"}), failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "failed"}),
		}
	}
	started, dir := c.now(), t.TempDir()
	all := []*scheduled{replica("one", dir), replica("four", dir), replica("fifth", dir)}
	steps := func(of ...*scheduled) (failed error) {
		var g sync.WaitGroup
		var mu sync.Mutex
		for _, s := range of {
			g.Go(func() {
				err := s.step(t.Context(), started)
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
			})
		}
		g.Wait()
		return failed
	}
	count := func() int {
		t.Helper()
		files, err := all[0].files()
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	made := func() (n float64) {
		for _, s := range all {
			n = max(n, read(t, s.last))
		}
		return n
	}
	for _, step := range []struct {
		name  string
		pass  time.Duration
		files int
		last  time.Duration // since the start, when the newest was made; 0 for none
	}{
		{"nothing at once", 0, 0, 0},
		{"nothing too soon", firstBackup - time.Second, 0, 0},
		{"SEC-012 one of three replicas makes the first", time.Second, 1, firstBackup},
		{"SEC-012 not again before it is time", time.Hour - time.Second, 1, firstBackup},
		{"SEC-012 and one when it is", time.Second, 2, firstBackup + time.Hour},
		{"SEC-012 the oldest goes", time.Hour, 2, firstBackup + 2*time.Hour},
	} {
		c.pass(step.pass)
		if err := steps(all...); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		t.Run(step.name, func(t *testing.T) {
			if n := count(); n != step.files {
				t.Errorf("%d files, want %d", n, step.files)
			}
			want := 0.0
			if step.last != 0 {
				want = float64(started.Add(step.last).Unix())
			}
			if got := made(); got != want {
				t.Errorf("the last is of %v, want %v", got, want)
			}
		})
	}
	t.Run("SEC-012 who cannot leaves it to others", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Hour)
		if err := steps(replica("broken", file)); err == nil || !strings.Contains(err.Error(), "--backup-dir") {
			t.Errorf("got %v, want an error that names the flag", err)
		}
		before := made()
		if err := steps(all[1]); err != nil || made() <= before {
			t.Errorf("another did not make it: %v", err)
		}
	})
	t.Run("SEC-012 who has gone is waited for, not for ever", func(t *testing.T) {
		c.pass(time.Hour)
		if mine, err := replica("gone", dir).claim(t.Context(), started); err != nil || !mine {
			t.Fatalf("claim: %v, %v", mine, err)
		}
		before := made()
		if err := steps(all...); err != nil || made() != before {
			t.Errorf("others did not wait for who had claimed it: %v", err)
		}
		c.pass(claimedFor)
		if err := steps(all...); err != nil || made() == before {
			t.Errorf("nobody took it over: %v", err)
		}
	})
	t.Run("what is not ours stays", func(t *testing.T) {
		kept := filepath.Join(dir, "evermesh-mine.backup")
		half := filepath.Join(dir, ".evermesh-20260101T000000Z.backup-12")
		for _, f := range []string{kept, half} {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(half, started, started); err != nil {
			t.Fatal(err)
		}
		if err := all[0].prune(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what a killed replica left is there: %v", err)
		}
	})
}
