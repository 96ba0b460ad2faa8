package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// destination is a weighted target of a route: a virtual node, and its port where the route names one.
type destination struct {
	node string
	port int // 0 for none
}

func (d destination) String() string {
	if d.port == 0 {
		return d.node
	}
	return d.node + ":" + strconv.Itoa(d.port)
}

// weights are a route's weighted targets. Shares are what counts: a weight's part of the sum.
type weights map[destination]int

const (
	// mostWeight is the API's.
	mostWeight = 100
	// mostTargets is how many weighted targets a route may have.
	mostTargets = 10
)

// parseWeights reads NODE=WEIGHT or NODE:PORT=WEIGHT.
func parseWeights(list []string) (weights, error) {
	out := weights{}
	for _, item := range list {
		name, number, ok := strings.Cut(strings.TrimSpace(item), "=")
		node, port, hasPort := strings.Cut(name, ":")
		d := destination{node: node}
		var bad error
		if hasPort {
			d.port, bad = strconv.Atoi(port)
		}
		w, err := strconv.Atoi(number)
		if !ok || node == "" || bad != nil || hasPort && (d.port < 1 || d.port > 65535) || err != nil || w < 0 || w > mostWeight {
			return nil, fmt.Errorf("%q: want NODE=WEIGHT or NODE:PORT=WEIGHT, with a weight from 0 to %d", item, mostWeight)
		}
		if _, twice := out[d]; twice {
			return nil, fmt.Errorf("%s is there twice", d)
		}
		out[d] = w
	}
	if out.sum() == 0 {
		return nil, fmt.Errorf("no target has a weight above 0: nobody would get the traffic")
	}
	return out, nil
}

func (w weights) sum() (n int) {
	for _, v := range w {
		n += v
	}
	return n
}

// sorted are the destinations by name and port.
func (w weights) sorted() []destination {
	return slices.SortedFunc(maps.Keys(w), func(a, b destination) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.port, b.port))
	})
}

// String is the weights for people: "orders-v1=70 orders-v2=30".
func (w weights) String() string {
	var parts []string
	for _, d := range w.sorted() {
		parts = append(parts, fmt.Sprintf("%s=%d", d, w[d]))
	}
	return strings.Join(parts, " ")
}

// toward are the weights when done percent of the way from w to the other is gone, by shares, with 100 as their sum. At 100
// percent they are the other's own. Who is not named in it has 0 there. w has a sum above 0, as the other.
func (w weights) toward(to weights, done int) weights {
	out := weights{}
	if done >= 100 {
		for d := range w {
			out[d] = 0
		}
		maps.Copy(out, to)
		return out
	}
	type rest struct {
		destination
		part float64
	}
	from, until, left := float64(w.sum()), float64(to.sum()), mostWeight
	var parts []rest
	all := maps.Clone(w)
	maps.Copy(all, to)
	for _, d := range all.sorted() {
		before, after := float64(w[d])/from, float64(to[d])/until
		exact := mostWeight * (before + (after-before)*float64(done)/100)
		whole := math.Floor(exact + 1e-9)
		out[d] = int(whole)
		left -= int(whole)
		parts = append(parts, rest{d, math.Round((exact - whole) * 1e6)}) // equal ones are equal
	}
	// The largest remainders get what rounding left.
	slices.SortStableFunc(parts, func(a, b rest) int { return cmp.Compare(b.part, a.part) })
	for i := range left {
		out[parts[i].destination]++
	}
	return out
}

// path are the steps from w to the other, each so many percent of the way further; the last is the other's own.
func (w weights) path(to weights, step int) []weights {
	var out []weights
	for done := step; done < 100; done += step {
		out = append(out, w.toward(to, done))
	}
	return append(out, w.toward(to, 100))
}
