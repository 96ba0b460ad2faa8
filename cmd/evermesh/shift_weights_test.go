package main

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWeightsOnTheirWay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, from, to string
		step           int
		want           string
	}{
		{"a new version", "v1=100", "v2=100", 25, "v1=75 v2=25, v1=50 v2=50, v1=25 v2=75, v1=0 v2=100"},
		{"by shares, whatever the sums are", "v1=3,v2=1", "v2=1", 50, "v1=38 v2=62, v1=0 v2=1"},
		{"a third", "v1=1", "v1=1,v2=1,v3=1", 50, "v1=67 v2=17 v3=16, v1=1 v2=1 v3=1"},
		{"at once", "v1=100", "v2=7", 100, "v1=0 v2=7"},
		{"a last step that is shorter", "v1=100", "v2=100", 40, "v1=60 v2=40, v1=20 v2=80, v1=0 v2=100"},
		{"another port of the same node", "v1:8080=100", "v1:9090=100", 50, "v1:8080=50 v1:9090=50, v1:8080=0 v1:9090=100"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, w := range someWeights(t, test.from).path(someWeights(t, test.to), test.step) {
				got = append(got, w.String())
			}
			if s := strings.Join(got, ", "); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
		})
	}
}

func someWeights(t *testing.T, text string) weights {
	t.Helper()
	w, err := parseWeights(strings.Split(text, ","))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWeightsRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"v1", "=1", "v1=", "v1=101", "v1=-1", "v1=x", "v1:0=1", "v1:x=1", "v1=0", "v1=1,v1=2", ""} {
		if w, err := parseWeights(strings.Split(bad, ",")); err == nil {
			t.Errorf("%q is %v", bad, w)
		}
	}
}

// No step of any way turns back, leaves the API's bounds, or leaves nobody with traffic.
func TestWeightsNeverTurnBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) weights {
			w := weights{}
			for _, node := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 1, 5, rapid.ID).Draw(t, name) {
				w[destination{node: node}] = rapid.IntRange(0, 100).Draw(t, node)
			}
			if w.sum() == 0 {
				w[destination{node: "a"}] = 1
			}
			return w
		}
		from, to := draw("from"), draw("to")
		before := from.toward(to, 0)
		all := from.path(to, rapid.IntRange(1, 100).Draw(t, "step"))
		for i, now := range all {
			if i == len(all)-1 {
				for d, w := range now {
					if w != to[d] {
						t.Fatalf("the last step is %v, want %v", now, to)
					}
				}
				break
			}
			if now.sum() != 100 {
				t.Fatalf("step %d: %v has the sum %d", i, now, now.sum())
			}
			for d, w := range now {
				start, end := float64(from[d])/float64(from.sum()), float64(to[d])/float64(to.sum())
				// Rounding may take one back.
				if w < 0 || w > 100 || end >= start && w < before[d]-1 || end <= start && w > before[d]+1 {
					t.Fatalf("step %d: %s goes from %d to %d on its way from %v to %v", i, d, before[d], w, from, to)
				}
			}
			before = now
		}
	})
}
