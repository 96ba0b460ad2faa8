//go:build linux

package fields

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scenes are all scenes, those that take long first.
func scenes() []scene {
	return slices.Concat(clusterScenes(), nodeScenes(), meshScenes(), routeScenes(), gatewayScenes(), gatewayRouteScenes(), tlsScenes())
}

// TestFields plays all cases with real Envoys. With -update it then writes
// docs/fields.md.
func TestFields(t *testing.T) {
	if shared.missing != nil {
		t.Skipf("this machine allows no ground: %v", shared.missing)
	}
	var passed atomic.Int64
	cases := 0
	t.Run("all", func(t *testing.T) {
		for _, s := range scenes() {
			cases += len(s.fields)
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				t.Logf("real envoy: %s", shared.version)
				p := s.start(t)
				for _, f := range s.fields {
					if t.Run(f.test(t), func(t *testing.T) { p.show(t, f) }) {
						passed.Add(1)
					}
				}
			})
		}
	})
	if *update && !t.Failed() && int(passed.Load()) == cases {
		if err := os.WriteFile(pagePath(t), []byte(page(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// show plays a case.
func (p *play) show(t *testing.T, f field) {
	before, after := f.states(t, p.resources)
	if f.refused != "" {
		if _, err := snapshot(p.mesh(), 1, after); err == nil || !strings.Contains(err.Error(), f.refused) {
			t.Errorf("the API says %v, want a refusal with %q", err, f.refused)
		}
		return
	}
	for _, x := range []struct {
		when      string
		resources []resource
		want      string
	}{{"before", before, f.before}, {"after", after, f.after}} {
		p.publish(t, x.resources)
		got := f.see(t, p)
		for again := range 4 {
			closing := again == 0 && strings.Contains(got, "reset") && !strings.Contains(x.want, "reset") // the first one was made while Envoy closed its listener
			if got == x.want || !closing && !f.timed {
				break
			}
			got = f.see(t, p)
		}
		if got != x.want {
			t.Errorf("%s the change: %q, want %q", x.when, got, x.want)
		}
	}
}

// TestTable holds the cases to the model: every leaf has a case, every case
// changes one leaf that there is, alone, and shows a difference.
func TestTable(t *testing.T) {
	known := leaves(t)
	shown := map[string]bool{}
	for _, s := range scenes() {
		names := map[string]bool{}
		base, err := parseBase(s.name, s.base)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.fields {
			t.Run(s.name+"/"+f.test(t), func(t *testing.T) {
				leaf := f.leaf(t)
				if shown[leaf] = true; !slices.Contains(known, leaf) {
					t.Errorf("%s is no leaf of the model", leaf)
				}
				if name := f.name(t); names[name] {
					t.Errorf("the scene has two cases %q: give one a title", name)
				} else {
					names[name] = true
				}
				if f.refused == "" && ((f.before == f.after) != (f.ignored != "") || f.see == nil) {
					t.Errorf("the case shows no difference: %q", f.before)
				}
				if f.refused != "" && (f.before != "" || f.after != "" || f.see != nil) {
					t.Error("what the API refuses is not looked at")
				}
				before, after := f.states(t, base)
				if _, err := snapshot(s.mesh(), 1, before); err != nil {
					t.Errorf("the API refuses what is given: %v", err)
				}
				if n := different(t, before, after); n != 1 {
					t.Errorf("the change is of %d leaves, want one", n)
				}
			})
		}
	}
	for _, leaf := range known {
		if !shown[leaf] {
			t.Errorf("%s has no case", leaf)
		}
	}
}

// different counts the leaves in which two lists of resources differ.
func different(t *testing.T, before, after []resource) int {
	t.Helper()
	n := 0
	var walk func(a, b any)
	walk = func(a, b any) {
		x, isX := a.(map[string]any)
		y, isY := b.(map[string]any)
		v, isV := a.([]any)
		w, isW := b.([]any)
		switch {
		case (isX || a == nil) && (isY || b == nil) && (isX || isY):
			for k := range x {
				walk(x[k], y[k])
			}
			for k := range y {
				if _, both := x[k]; !both {
					walk(nil, y[k])
				}
			}
		case (isV || a == nil) && (isW || b == nil) && (isV || isW):
			at := func(list []any, i int) any {
				if i < len(list) {
					return list[i]
				}
				return nil
			}
			for i := range max(len(v), len(w)) {
				walk(at(v, i), at(w, i))
			}
		case fmt.Sprint(a) != fmt.Sprint(b):
			n++
		}
	}
	for i := range before {
		walk(before[i].Spec, after[i].Spec)
	}
	return n
}

// compare holds a file of testdata to what it should be, or rewrites it.
func compare(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-file +got), -update rewrites it:\n%s", path, diff)
	}
}
