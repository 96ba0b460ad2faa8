package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/rogpeppe/go-internal/diff"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// differ compares the configurations of many clients, which share most of it.
type differ struct {
	builder envoy.Builder
	known   map[[2]*envoy.Resource]string // differences made before
	effects map[[2]*envoy.Resource]effect // of listeners
	room    int                           // bytes left for differences
	full    bool                          // there was no room for one
}

// proxy compares what a client has with what it would have.
func (d *differ) proxy(before, after *mesh.Snapshot, c mesh.Client) (Proxy, bool) {
	was, wasProblems, _ := before.View(c)
	is, isProblems, _ := after.View(c)
	if was.Equal(is) {
		return Proxy{}, false
	}
	out := Proxy{Client: c, Action: api.PlanActionUpdate}
	var old, now *envoy.Bundle
	if was == nil {
		out.Action = api.PlanActionCreate
	} else {
		var problems []mesh.Problem
		old, problems = d.builder.Build(was, nil)
		wasProblems = append(wasProblems, problems...)
	}
	if is == nil {
		out.Action = api.PlanActionDelete
		return out, true
	}
	now, problems := d.builder.Build(is, old)
	for _, p := range append(isProblems, problems...) {
		if !slices.Contains(wasProblems, p) && !slices.Contains(out.Problems, p) {
			out.Problems = append(out.Problems, p)
		}
	}
	for _, t := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster} {
		out.Configurations = append(out.Configurations, d.list(t, listOf(old, t), now.List(t).Resources)...)
	}
	return out, was == nil || len(out.Configurations)+len(out.Problems) > 0
}

func listOf(b *envoy.Bundle, t envoy.Type) []*envoy.Resource {
	if b == nil {
		return nil
	}
	return b.List(t).Resources
}

// list compares two lists, each sorted by name.
func (d *differ) list(t envoy.Type, old, now []*envoy.Resource) []Configuration {
	var out []Configuration
	named := map[envoy.Type]api.DiscoveryType{
		envoy.Listener: api.DiscoveryTypeListener, envoy.Route: api.DiscoveryTypeRoute, envoy.Cluster: api.DiscoveryTypeCluster,
	}[t]
	for len(old)+len(now) > 0 {
		switch {
		case len(now) == 0 || (len(old) > 0 && old[0].Name < now[0].Name):
			out = append(out, Configuration{Type: named, Action: api.PlanActionDelete, Before: old[0]})
			old = old[1:]
		case len(old) == 0 || now[0].Name < old[0].Name:
			out = append(out, Configuration{Type: named, Action: api.PlanActionCreate, After: now[0]})
			now = now[1:]
		default:
			if old[0].Hash != now[0].Hash {
				out = append(out, Configuration{Type: named, Action: api.PlanActionUpdate, Before: old[0], After: now[0], Difference: d.text(t, old[0], now[0])})
			}
			old, now = old[1:], now[1:]
		}
	}
	if t == envoy.Listener {
		for i := range out {
			e := d.effect(out[i].Before, out[i].After)
			out[i].Drains, out[i].Effects = e.drains, e.texts
		}
	}
	return out
}

func (d *differ) effect(before, after *envoy.Resource) effect {
	pair := [2]*envoy.Resource{before, after}
	e, made := d.effects[pair]
	if !made {
		e = listenerEffect(before, after)
		d.effects[pair] = e
	}
	return e
}

// text is the difference of two of Envoy's resources, as lines of YAML.
func (d *differ) text(t envoy.Type, old, now *envoy.Resource) string {
	pair := [2]*envoy.Resource{old, now}
	text, made := d.known[pair]
	if !made {
		if len(d.known) == mostDifferences {
			d.full = true
			return ""
		}
		text = Difference(readable(t, old), readable(t, now))
		d.known[pair] = text
	}
	if d.room -= len(text); d.room < 0 {
		d.full = true
		return ""
	}
	return text
}

// readable is one of Envoy's resources as YAML.
func readable(t envoy.Type, r *envoy.Resource) []byte {
	var m proto.Message
	switch t {
	case envoy.Cluster:
		m = &clusterv3.Cluster{}
	case envoy.Listener:
		m = &listenerv3.Listener{}
	default:
		m = &routev3.RouteConfiguration{}
	}
	if err := r.UnmarshalTo(m); err != nil {
		return []byte(fmt.Sprintf("%s cannot be read: %v\n", r.Name, err)) // it was made by us
	}
	text, err := envoy.JSON(m)
	if err != nil {
		return []byte(fmt.Sprintf("%s cannot be written: %v\n", r.Name, err))
	}
	return YAML(text)
}

// YAML is a JSON document as people read it; what is no JSON comes back as it is.
func YAML(document []byte) []byte {
	text, err := yaml.JSONToYAML(document)
	if err != nil {
		return document
	}
	return text
}

// Difference compares two texts by line: what goes begins with -, what comes with
// +, and three lines around it with a space. It is empty when they are the same.
func Difference(old, now []byte) string {
	text := diff.Diff("before", old, "after", now)
	for range 3 { // the names of the texts
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	return string(text)
}

// sameText says whether two JSON documents are the same but for the order of
// members and white space.
func sameText(a, b []byte) bool {
	read := func(text []byte) (v any) {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if dec.Decode(&v) != nil {
			return text
		}
		return v
	}
	return reflect.DeepEqual(read(a), read(b))
}
