package httpapi

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDifference(t *testing.T) {
	const older = `
# TYPE Active gauge
Active{Mesh="m"} 5

# TYPE Requests counter
Requests{Target="a b"} 18446744073709551610
Requests{Target="gone"} 3

# TYPE Time histogram
Time_bucket{le="5"} 1
Time_bucket{le="+Inf"} 2
Time_sum{} 7.5
Time_count{} 2
`
	const newer = `
# TYPE Active gauge
Active{Mesh="m"} 3

# TYPE Requests counter
Requests{Target="a b"} 18446744073709551615
Requests{Target="new"} 4

# TYPE Time histogram
Time_bucket{le="5"} 1
Time_bucket{le="+Inf"} 5
Time_sum{} 10.25
Time_count{} 5
`
	const want = `
# TYPE Active gauge
Active{Mesh="m"} 3

# TYPE Requests counter
Requests{Target="a b"} 5
Requests{Target="new"} 4

# TYPE Time histogram
Time_bucket{le="5"} 0
Time_bucket{le="+Inf"} 3
Time_sum{} 2.75
Time_count{} 3
`
	if got := difference(older, newer); got != want {
		t.Errorf("got %s", got)
	}
	if got := difference(newer, older); strings.Contains(got, "-") {
		t.Errorf("less than nothing: %s", got)
	}
	if got := difference("", newer); got != newer {
		t.Errorf("from nothing: %s", got)
	}
	const odd = "no sample\nRequests NaN\n# HELP x\n\n"
	if got := difference(odd, odd); got != odd {
		t.Errorf("what is no number: %q", got)
	}
}

// What two differences add up to is the difference over both.
func TestDifferencesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}`), 1, 5, rapid.ID).Draw(t, "names")
		counts := map[string]uint64{}
		text := func() string {
			var b strings.Builder
			b.WriteString("# TYPE x counter\n")
			for _, name := range names {
				counts[name] += rapid.Uint64Max(1<<40).Draw(t, "more")
				fmt.Fprintf(&b, "x{l=%q} %d\n", name, counts[name])
			}
			return b.String()
		}
		first, second, third := text(), text(), text()
		sum := map[string]uint64{}
		for _, d := range []string{difference(first, second), difference(second, third)} {
			for line := range strings.Lines(d) {
				if name, value, ok := sample(line); ok {
					var n uint64
					if _, err := fmt.Sscan(value, &n); err != nil {
						t.Fatal(err)
					}
					sum[name] += n
				}
			}
		}
		for line := range strings.Lines(difference(first, third)) {
			if name, value, ok := sample(line); ok && fmt.Sprint(sum[name]) != value {
				t.Errorf("%s: %d by steps, %s at once", name, sum[name], value)
			}
		}
	})
}
