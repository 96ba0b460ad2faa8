package main

import (
	"encoding/json"
	"errors"
	"maps"
)

// A route's spec is kept as it came: what this program does not know of goes back unchanged.

// actionOf is the member of a route's spec that has its action: httpRoute, http2Route, grpcRoute or tcpRoute.
func actionOf(spec map[string]any) (member string, route, action map[string]any) {
	for _, name := range []string{"httpRoute", "http2Route", "grpcRoute", "tcpRoute"} {
		if r, ok := spec[name].(map[string]any); ok {
			a, _ := r["action"].(map[string]any)
			return name, r, a
		}
	}
	return "", nil, nil
}

// targetsOf are the weighted targets of a route's spec.
func targetsOf(spec map[string]any) ([]map[string]any, error) {
	_, _, action := actionOf(spec)
	list, _ := action["weightedTargets"].([]any)
	var out []map[string]any
	for _, item := range list {
		if t, ok := item.(map[string]any); ok {
			out = append(out, t)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the route has no weighted targets")
	}
	return out, nil
}

func destinationOf(target map[string]any) destination {
	node, _ := target["virtualNode"].(string)
	return destination{node, int(number(target["port"]))}
}

// number is a number as JSON gives it; 0 for none.
func number(v any) float64 {
	switch n := v.(type) {
	case float64:
		return n
	case json.Number:
		f, _ := n.Float64() // 0 for none
		return f
	}
	return 0
}

// withWeights is the spec with these weighted targets; the spec itself stays as it is. Those that were there keep their
// order and whatever else they say.
func withWeights(spec map[string]any, w weights) map[string]any {
	member, route, action := actionOf(spec)
	left := maps.Clone(w)
	var list []any
	before, _ := targetsOf(spec)
	for _, t := range before {
		d := destinationOf(t)
		weight, ok := left[d]
		if !ok {
			continue
		}
		delete(left, d)
		t = maps.Clone(t)
		t["weight"] = float64(weight)
		list = append(list, t)
	}
	for _, d := range left.sorted() {
		t := map[string]any{"virtualNode": d.node, "weight": float64(left[d])}
		if d.port != 0 {
			t["port"] = float64(d.port)
		}
		list = append(list, t)
	}
	action, route, out := maps.Clone(action), maps.Clone(route), maps.Clone(spec)
	action["weightedTargets"] = list
	route["action"] = action
	out[member] = route
	return out
}
