//go:build linux

package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
)

// TestEtcdThatNeverCame starts an evermeshd whose etcd does not exist. It waits for a minute, never in silence, and ends.
// The file's name makes it begin early: it takes long and does nothing.
func TestEtcdThatNeverCame(t *testing.T) {
	t.Parallel()
	nobody := "http://" + testenv.FreeAddress(t)
	r := newReplica(t, "nobody", on(t, nobody)...)
	r.warns(nobody, "connection refused")
	if code := r.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	lines := strings.Split(strings.TrimSpace(r.said()), "\n")
	last := lines[len(lines)-1]
	t.Log(last)
	if !strings.HasPrefix(last, "evermeshd: ") || !strings.Contains(last, nobody) {
		t.Errorf("its last line does not name %s", nobody)
	}
}

// warns starts an evermeshd whose endpoint does not answer. It must say so soon, and why.
func (r *replica) warns(endpoint, why string) {
	r.t.Helper()
	r.launch()
	began := time.Now()
	until(r.t, "it says what it waits for", func() bool { return strings.Contains(r.said(), endpoint) })
	if took := time.Since(began); took > soon {
		r.t.Errorf("it took %v to say what it waits for", took)
	}
	first, _, _ := strings.Cut(r.said(), "\n")
	r.t.Log(first)
	if !strings.Contains(first, "level=WARN") || !strings.Contains(first, why) {
		r.t.Errorf("its first line does not warn of %q: %s", why, first)
	}
}
