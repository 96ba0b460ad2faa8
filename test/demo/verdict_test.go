//go:build linux

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// observed is an observation of n1 and n2 answers by the two versions, and of failed requests.
func observed(v1, v2, n1, n2, failed int) observation {
	t := stage.Tally{
		Requests: n1 + n2 + failed, Failed: failed,
		ByApp:  map[string]int{nodeA + " " + nodeB1: n1, nodeA + " " + nodeB2: n2},
		Faults: map[string]int{},
	}
	if failed > 0 {
		t.Faults["503 no healthy upstream"] = failed
	}
	return observation{step: "shift", v1: v1, v2: v2, split: t, all: t, reach: 42 * time.Millisecond}
}

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		seen []observation
		err  error
		want string // of the output; empty: all is well
	}{
		"as asked":             {seen: []observation{observed(100, 0, 2000, 0, 0), observed(75, 25, 1530, 470, 0), observed(0, 100, 0, 2000, 0)}},
		"at the bound":         {seen: []observation{observed(75, 25, 1384, 616, 0)}}, // 69.2, bound 5.81
		"beyond the bound":     {seen: []observation{observed(75, 25, 1382, 618, 0)}, want: "version 1 got 69.1 %, asked 75.0 ± 5.8"},
		"one to the wrong one": {seen: []observation{observed(100, 0, 1999, 1, 0)}, want: "asked 100.0 ± 0.0"},
		"one failed":           {seen: []observation{observed(50, 50, 1000, 1000, 1)}, want: "1 of 2001 requests failed: 1 × 503 no healthy upstream"},
		"nothing observed":     {seen: []observation{observed(50, 50, 0, 0, 0)}, want: "only 0 requests were answered"},
		"cut short":            {seen: []observation{observed(100, 0, 2000, 0, 0)}, err: errors.New("the ground gave way"), want: "the ground gave way"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			code := newTeller(&out).verdict(c.seen, c.err)
			if want := c.want != ""; want != (code != 0) || want != strings.Contains(out.String(), "FAILED") || !strings.Contains(out.String(), c.want) {
				t.Errorf("exit code %d, want a failure %v with %q:\n%s", code, want, c.want, out.String())
			}
		})
	}
}
