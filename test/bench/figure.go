//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one line of the table.
type figure struct {
	name                string
	ours, floor, factor string
	bound, verdict      string // what it must reach, and whether it did; "" where nothing is demanded
	note                string // printed below the table
}

// must says what the figure has to reach, and whether it does.
func (f figure) must(bound string, met bool) figure {
	f.bound, f.verdict = bound, "MISSED"
	if met {
		f.verdict = "ok"
	}
	return f
}

// atMost is must for a time that may be so many times its floor, and something more.
func (f figure) atMost(times float64, ours, floor, more time.Duration) figure {
	bound := fmt.Sprintf("≤ %g×", times)
	if more > 0 {
		bound += " + " + ms(more)
	}
	return f.must(bound, float64(ours) <= times*float64(floor)+float64(more))
}

// printTable prints the figures, and below them what there is to say about some.
func printTable(w io.Writer, figures []figure) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "figure\tmeasured\tfloor\tratio\tmust be\t\t") // Flush tells
	var notes []string
	for _, f := range figures {
		mark := ""
		if f.note != "" {
			notes = append(notes, f.note)
			mark = fmt.Sprintf("[%d]", len(notes))
		}
		_, _ = fmt.Fprintln(table, strings.Join([]string{f.name, f.ours, f.floor, f.factor, f.bound, f.verdict, mark}, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i, note := range notes {
		if _, err := fmt.Fprintf(w, "[%d] %s\n", i+1, note); err != nil {
			return err
		}
	}
	return nil
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	if n := len(of); n%2 == 0 {
		return (of[n/2-1] + of[n/2]) / 2
	}
	return of[len(of)/2]
}

// interval is where the median of what the values are drawn from is in 95 % of cases or more, whatever they are
// spread like: between the k-th lowest and the k-th highest, for the largest k that few enough coins in a row allow.
// Fewer than six values have no such interval; theirs is from the lowest to the highest.
func interval(of []float64) (low, high float64) {
	of = slices.Sorted(slices.Values(of))
	n := len(of)
	k, below := 0, 0.0 // the probability that at most k of n coins show heads
	for one := math.Pow(0.5, float64(n)); below+one <= 0.025; k++ {
		below += one
		one *= float64(n-k) / float64(k+1)
	}
	k = max(k, 1)
	return of[k-1], of[n-k]
}
