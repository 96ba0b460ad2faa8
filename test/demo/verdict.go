//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// deviations is how many standard deviations of a binomial distribution an observed share may be off. Envoy draws a
// target for each request, so one right run in tens of millions is further off.
const deviations = 6

// observation is what one step of the story asked for and what came of it.
type observation struct {
	step   string
	v1, v2 int // asked weights
	// split counts the requests that began after the last proxy had accepted; all counts those that began since the
	// step began, so that every request of the run is in one step.
	split, all stage.Tally
	reach      time.Duration // from the request for the change to the last proxy's acceptance; 0: nothing was changed
}

// shares are the observed percentages of version 1 and 2.
func (o observation) shares() (v1, v2 float64) {
	b1, b2 := o.count()
	n := float64(max(1, b1+b2))
	return 100 * float64(b1) / n, 100 * float64(b2) / n
}

// count tells the requests of each version apart: an app's name ends in it.
func (o observation) count() (v1, v2 int) {
	for app, n := range o.split.ByApp {
		if strings.HasSuffix(app, nodeB1) {
			v1 += n
		}
		if strings.HasSuffix(app, nodeB2) {
			v2 += n
		}
	}
	return v1, v2
}

// bound is how many points the observed share may differ from the asked one: none where everything goes one way.
func (o observation) bound() float64 {
	p := float64(o.v1) / float64(o.v1+o.v2)
	b1, b2 := o.count()
	return 100 * deviations * math.Sqrt(p*(1-p)/float64(max(1, b1+b2)))
}

// differs says how the observation differs from what was asked; nil if it does not.
func (o observation) differs(want int) error {
	var errs []error
	if o.all.Failed > 0 {
		errs = append(errs, fmt.Errorf("%s: %d of %d requests failed: %s", o.step, o.all.Failed, o.all.Requests, faults(o.all)))
	}
	b1, b2 := o.count()
	if b1+b2 < want {
		errs = append(errs, fmt.Errorf("%s: only %d requests were answered by either version, want %d", o.step, b1+b2, want))
	}
	share, _ := o.shares()
	if asked := 100 * float64(o.v1) / float64(o.v1+o.v2); math.Abs(share-asked) > o.bound() {
		errs = append(errs, fmt.Errorf("%s: version 1 got %.1f %%, asked %.1f ± %.1f", o.step, share, asked, o.bound()))
	}
	return errors.Join(errs...)
}

func faults(t stage.Tally) string {
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(t.Faults)) {
		parts = append(parts, fmt.Sprintf("%d × %s", t.Faults[text], text))
	}
	return strings.Join(parts, "; ")
}

// verdict prints the table and what follows from it, and returns the exit code. err is what cut the story short.
func (t *teller) verdict(seen []observation, err error) int {
	errs := []error{err}
	requests, failed := 0, 0
	if len(seen) > 0 {
		t.line("")
		table := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', tabwriter.AlignRight)
		row := func(cells ...string) { _, _ = fmt.Fprintln(table, strings.Join(cells, "\t")+"\t") }
		row("", "asked", "observed", "may differ", "requests", "failed", "ms to last proxy")
		for _, o := range seen {
			v1, v2 := o.shares()
			reach := "–"
			if o.reach > 0 {
				reach = fmt.Sprintf("%.0f", float64(o.reach.Microseconds())/1000)
			}
			row(o.step, fmt.Sprintf("%d / %d", o.v1, o.v2), fmt.Sprintf("%.1f / %.1f", v1, v2), fmt.Sprintf("± %.1f", o.bound()),
				fmt.Sprint(o.all.Requests), fmt.Sprint(o.all.Failed), reach)
			errs = append(errs, o.differs(1))
			requests, failed = requests+o.all.Requests, failed+o.all.Failed
		}
		if err := table.Flush(); err != nil {
			return 1
		}
		t.line("")
		t.line("Splits are those of requests that began after the last proxy had accepted; they may differ by %d standard", deviations)
		t.line("deviations. Every request up to the last row's end is in one row; none was repeated by the visitor.")
	}
	if err := errors.Join(errs...); err != nil {
		return t.failed(err)
	}
	t.line("\nOK: %d requests, %d failed; traffic went where it was asked to. %.0f s.", requests, failed, time.Since(t.began).Seconds())
	return 0
}
