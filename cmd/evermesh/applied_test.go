package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/apply"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/model/modeltest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// meshes is how many meshes a property is tried with: each costs some forty
// writes. The rest of what rapid draws passes.
const meshes = 25

// drawn are random inputs for one mesh, in random order. They keep the model, and
// what they refer to is often there; the API refuses some all the same.
func drawn(t *rapid.T, m *model.Model, name string) []map[string]any {
	out := []map[string]any{{"meshName": name, "tags": []any{map[string]any{"key": "team", "value": name}}}}
	for range rapid.IntRange(1, 12).Draw(t, "resources") {
		row := rapid.SampledFrom(api.Kinds()[1:]).Draw(t, "kind")
		doc := modeltest.Draw(t, m, "Create"+row.Type+"Input").(map[string]any)
		delete(doc, "meshOwner")
		delete(doc, "clientToken")
		doc["meshName"] = name
		doc[row.Name] = rapid.SampledFrom([]string{"a", "b.local", "c"}).Draw(t, "name")
		if row.Nested() {
			parent, _ := row.Parent.Row()
			doc[parent.Name] = rapid.SampledFrom([]string{"a", "c"}).Draw(t, "parent")
		}
		refer(t, doc["spec"])
		if plain := usual(t, row.Kind); plain != nil && rapid.Bool().Draw(t, "usual") {
			doc["spec"] = plain
		}
		out = append(out, doc)
	}
	for _, row := range api.Kinds()[1:] { // what most can refer to
		if spec := usual(t, row.Kind); spec != nil && !row.Nested() {
			out = append(out, map[string]any{"meshName": name, row.Name: "a", "spec": spec})
		}
	}
	return rapid.Permutation(out).Draw(t, "order")
}

// usual is a spec as people write them.
func usual(t *rapid.T, kind api.Kind) map[string]any {
	listeners := []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}}
	weight := func() int { return rapid.IntRange(0, 100).Draw(t, "weight") }
	match := map[string]any{"prefix": "/"}
	switch kind {
	case api.KindVirtualNode:
		return map[string]any{
			"listeners": listeners, "serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "host.local"}},
			"backends": []any{map[string]any{"virtualService": map[string]any{"virtualServiceName": "a"}}},
		}
	case api.KindVirtualRouter, api.KindVirtualGateway:
		return map[string]any{"listeners": listeners}
	case api.KindRoute:
		return map[string]any{"httpRoute": map[string]any{"match": match, "action": map[string]any{"weightedTargets": []any{
			map[string]any{"virtualNode": "a", "weight": weight()},
		}}}}
	case api.KindVirtualService:
		return map[string]any{"provider": map[string]any{"virtualRouter": map[string]any{"virtualRouterName": "a"}}}
	case api.KindGatewayRoute:
		return map[string]any{"httpRoute": map[string]any{"match": match, "action": map[string]any{"target": map[string]any{
			"virtualService": map[string]any{"virtualServiceName": "a"},
		}}}}
	}
	return nil
}

// refer replaces the names that a spec refers to by some that may exist.
func refer(t *rapid.T, v any) {
	switch v := v.(type) {
	case map[string]any:
		for member, x := range v {
			if _, text := x.(string); text {
				switch member {
				case "virtualNode", "virtualNodeName", "virtualRouterName", "virtualServiceName":
					v[member] = rapid.SampledFrom([]string{"a", "b.local", "c"}).Draw(t, "reference")
				}
				continue
			}
			refer(t, x)
		}
	case []any:
		for _, x := range v {
			refer(t, x)
		}
	}
}

// itemsFrom are the inputs as a file of them is read, without what stands twice.
func itemsFrom(t testingT, docs []map[string]any) []apply.Item {
	var file bytes.Buffer
	for _, d := range docs {
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatalf("%v", err)
		}
		file.Write(append(text, '\n'))
	}
	inputs, err := parseJSON("file", file.Bytes())
	if err != nil {
		t.Fatalf("%v", err)
	}
	var read reading
	found, err := read.check(inputs, "")
	if err != nil {
		t.Fatalf("%v", err)
	}
	var items []apply.Item
	for _, x := range found {
		items = append(items, apply.Item{Where: x.where, Key: x.resource.Key, Doc: x.doc})
	}
	return apply.InOrder(items)
}

type testingT interface{ Fatalf(string, ...any) }

// exported is a mesh as export writes it.
func exported(ctx context.Context, t testingT, a *apply.Applier, name string) []byte {
	all, ok, err := a.Export(ctx, api.Key{Mesh: name, Kind: api.KindMesh, Name: name})
	if err != nil || !ok {
		t.Fatalf("export: %v, %v", ok, err)
	}
	var out bytes.Buffer
	for _, x := range all {
		out.Write(append(x.Text, '\n'))
	}
	return out.Bytes()
}

// docsOf reads an export.
func docsOf(t testingT, text []byte) []map[string]any {
	var out []map[string]any
	for line := range bytes.Lines(text) {
		v, err := model.Decode(numbers(line))
		if err != nil {
			t.Fatalf("%v", err)
		}
		out = append(out, v.(map[string]any))
	}
	return out
}

func numbers(line []byte) *json.Decoder {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	return dec
}

// runAll applies and returns the results; only refusals of items are allowed.
func runAll(ctx context.Context, t testingT, a *apply.Applier, items []apply.Item) []apply.Result {
	results, err := a.Run(ctx, items)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return results
}

// What was exported is made anew elsewhere, equal to the letter; applied to where
// it came from it writes nothing.
func TestExportAndApplyAreInverse(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	here, there := newPlane(t, t.TempDir()), newPlane(t, t.TempDir())
	a, b := &apply.Applier{Client: here.client(t)}, &apply.Applier{Client: there.client(t)}
	n, made := 0, map[api.Kind]int{}
	rapid.Check(t, func(rt *rapid.T) {
		if n++; n > meshes && len(made) == len(api.Kinds()) {
			return
		}
		name := fmt.Sprint("m", n)
		for _, r := range runAll(t.Context(), rt, a, itemsFrom(rt, drawn(rt, m, name))) {
			if r.Err == nil {
				made[r.Key.Kind]++
			}
		}
		text := exported(t.Context(), rt, a, name)
		items := itemsFrom(rt, rapid.Permutation(docsOf(rt, text)).Draw(rt, "files"))

		before := head(t.Context(), rt, here)
		for _, r := range runAll(t.Context(), rt, a, items) {
			if r.Err != nil || r.Action != apply.Unchanged {
				rt.Fatalf("where it came from, %s is %s: %v", r.Path(), r.Action, r.Err)
			}
		}
		if after := head(t.Context(), rt, here); after != before {
			rt.Fatalf("applying an export where it came from wrote %d times", after-before)
		}
		for _, r := range runAll(t.Context(), rt, b, items) {
			if r.Err != nil || r.Action != apply.Create {
				rt.Fatalf("elsewhere, %s is %s: %v", r.Path(), r.Action, r.Err)
			}
		}
		sorted := func(text []byte) []string {
			var out []string
			for line := range bytes.Lines(text) {
				out = append(out, string(line))
			}
			slices.Sort(out)
			return out
		}
		if diff := cmp.Diff(sorted(text), sorted(exported(t.Context(), rt, b, name))); diff != "" {
			rt.Fatalf("elsewhere it is another (-here +there)\n%s", diff)
		}
	})
	for _, row := range api.Kinds() {
		if made[row.Kind] == 0 {
			t.Errorf("no %s was made: %v", row.Kind, made)
		}
	}
	t.Log(made)
}

func head(ctx context.Context, t testingT, p *plane) int64 {
	revision, err := p.store.Head(ctx)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return revision
}

// What plan says is what apply then does: to each resource, to the configuration
// of each node's and gateway's proxies, and with what refused.
func TestPlanTellsWhatApplyDoes(t *testing.T) {
	t.Parallel()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlane(t, t.TempDir())
	a := &apply.Applier{Client: p.client(t)}
	n := 0
	seen := map[apply.Action]int{}
	proxies := 0
	unseen := func() (out []apply.Action) {
		for _, action := range []apply.Action{apply.Create, apply.Update, apply.Delete, refuse} {
			if seen[action] == 0 {
				out = append(out, action)
			}
		}
		return out
	}
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		if n++; n > meshes && len(unseen()) == 0 {
			return
		}
		name := fmt.Sprint("m", n)
		runAll(ctx, rt, a, itemsFrom(rt, drawn(rt, m, name)))
		next := drawn(rt, m, name)
		if rapid.Bool().Draw(rt, "fewer") { // what is there, without some of it
			next = slices.DeleteFunc(docsOf(rt, exported(ctx, rt, a, name)), func(doc map[string]any) bool {
				return len(doc) > 3 && rapid.IntRange(0, 2).Draw(rt, "less") == 0
			})
		}
		items := itemsFrom(rt, next)
		others, left, err := a.Others(ctx, items)
		if err != nil || len(left) > 0 {
			rt.Fatalf("others: %v, %v", left, err)
		}
		items = append(items, others...)

		before, revision := hashes(ctx, rt, p, name), head(ctx, rt, p)
		plan, err := planOf(ctx, a, items)
		if err != nil {
			rt.Fatalf("plan: %v", err)
		}
		if now := head(ctx, rt, p); now != revision {
			rt.Fatalf("a plan wrote %d times", now-revision)
		}
		done := map[string]apply.Result{}
		for _, r := range runAll(ctx, rt, a, items) {
			done[r.Path()] = r
		}
		for _, r := range plan.Resources {
			seen[r.Action]++
			got := done[r.Resource]
			want := r.Action
			switch {
			case want == refuse:
				if got.Err == nil {
					rt.Fatalf("%s was to be refused (%s) and is %s", r.Resource, r.Message, got.Action)
				}
				continue
			case want == apply.Unchanged && r.Message != "":
				if got.Err == nil {
					rt.Fatalf("%s was to stay and is %s", r.Resource, got.Action)
				}
				continue
			}
			if got.Err != nil || got.Action != want {
				rt.Fatalf("%s was to be %s and is %s: %v", r.Resource, want, got.Action, got.Err)
			}
		}
		after := hashes(ctx, rt, p, name)
		want := map[string]bool{}
		for client, hash := range after {
			if hash != before[client] {
				want[client] = true
			}
		}
		for client := range before {
			if _, stays := after[client]; !stays {
				want[client] = true
			}
		}
		got := map[string]bool{}
		for _, x := range plan.Proxies {
			if len(x.Configurations) > 0 || x.Action != api.PlanActionUpdate {
				got[shortForm(x.ResourceARN)] = true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("nodes and gateways whose configuration changed (-apply +plan)\n%s", diff)
		}
		proxies += len(got)
	})
	if left := unseen(); len(left) > 0 {
		t.Errorf("nothing was %v in %d plans: %v", left, n, seen)
	}
	if proxies == 0 {
		t.Error("no configuration changed at all")
	}
}

// hashes are the contents of what each node and gateway of a mesh is to have.
func hashes(ctx context.Context, t testingT, p *plane, name string) map[string]string {
	s, err := storetest.Snapshot(p.store)(ctx)
	if err != nil {
		t.Fatalf("%v", err)
	}
	out := map[string]string{}
	var builder envoy.Builder
	for _, kind := range []api.Kind{api.KindVirtualNode, api.KindVirtualGateway} {
		for _, r := range s.List(kind, api.Key{Owner: account, Mesh: name, Kind: api.KindMesh, Name: name}) {
			view, _, _ := s.View(mesh.Client{Key: r.Key})
			bundle, _ := builder.Build(view, nil)
			hash := ""
			for _, t := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster} {
				hash += bundle.List(t).Hash + " "
			}
			out[pathOf(r.Key, account)] = hash
		}
	}
	return out
}
