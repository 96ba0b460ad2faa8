//go:build linux

package main

import (
	"slices"
	"testing"
	"time"
)

func TestInterval(t *testing.T) {
	upTo := func(n int) (out []float64) {
		for i := n; i > 0; i-- {
			out = append(out, float64(i))
		}
		return out
	}
	// The ranks are those of the table of the sign test.
	for _, c := range []struct {
		n                 int
		low, high, middle float64
	}{{1, 1, 1, 1}, {5, 1, 5, 3}, {6, 1, 6, 3.5}, {8, 1, 8, 4.5}, {9, 2, 8, 5}, {21, 6, 16, 11}, {30, 10, 21, 15.5}} {
		values := upTo(c.n)
		if low, high := interval(values); low != c.low || high != c.high {
			t.Errorf("%d values: %g to %g, want %g to %g", c.n, low, high, c.low, c.high)
		}
		if m := median(values); m != c.middle {
			t.Errorf("%d values: median %g, want %g", c.n, m, c.middle)
		}
		if !slices.Equal(values, upTo(c.n)) {
			t.Errorf("%d values are in another order now", c.n)
		}
	}
}

// TestTurns shows that at any time one process has its turn, and no other.
func TestTurns(t *testing.T) {
	const turn = 10 * time.Millisecond
	for _, processes := range []int{1, 2, 3} {
		had := make([]int, processes)
		for at := time.Duration(0); at < 30*turn; at += time.Millisecond {
			busy := 0
			for i := range processes {
				c := loadConfig{Turn: turn, Of: processes, Mine: i}
				n, next := c.turn(at)
				if next > 0 {
					// It is not early, and not late.
					if _, still := c.turn(at + next - 1); still == 0 {
						t.Fatalf("process %d of %d sleeps past its turn at %v", i, processes, at)
					}
					if _, still := c.turn(at + next); still > 0 {
						t.Fatalf("process %d of %d wakes up before its turn at %v", i, processes, at)
					}
					continue
				}
				busy++
				if want := int(at / turn / time.Duration(processes)); n != want {
					t.Fatalf("process %d of %d is in turn %d at %v, want %d", i, processes, n, at, want)
				}
				had[i]++
			}
			if busy != 1 {
				t.Fatalf("%d of %d processes are busy at %v", busy, processes, at)
			}
		}
		if slices.Min(had) != slices.Max(had) {
			t.Errorf("the turns of %d processes took %v", processes, had)
		}
	}
}

// TestConfigurationsAreLikeEachOther counts what a generated configuration has, and the one that it is held against: a
// ratio of different things would say nothing.
func TestConfigurationsAreLikeEachOther(t *testing.T) {
	services := []string{"s0", "s1", "s2"}
	of := func(m *resources, node string) object {
		bundle, err := m.bundle(node)
		if err != nil {
			t.Fatal(err)
		}
		out, err := generated(bundle)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		name     string
		services []string
		ours     object
	}{
		{"front", nil, of(colors(".local", ""), "front")},
		{"blue", nil, of(colors(".local", ""), "blue")},
		{"many", services, of(callerOf(services), caller)},
	} {
		hand, err := byHand(c.name, c.services...)
		if err != nil {
			t.Fatal(err)
		}
		// TLS may be turned on in a generated one without that a listener is replaced: it looks for it from the start.
		want := append(namesIn(hand), "envoy.filters.listener.tls_inspector")
		slices.Sort(want)
		if got := namesIn(c.ours); !slices.Equal(got, want) {
			t.Errorf("%s: the generated configuration has\n%q, by hand there would be\n%q", c.name, got, want)
		}
	}
}

// namesIn are the names of all listeners, clusters, route configurations and filters in a configuration, sorted.
func namesIn(of any) (out []string) {
	switch of := of.(type) {
	case object:
		if name, ok := of["name"].(string); ok {
			out = append(out, name)
		}
		for _, member := range of {
			out = append(out, namesIn(member)...)
		}
	case []any:
		for _, member := range of {
			out = append(out, namesIn(member)...)
		}
	}
	slices.Sort(out)
	return out
}
