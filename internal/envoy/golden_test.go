package envoy_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata/*.txtar")

// account owns everything in the cases.
const account = "123456789012"

// goldenCase is one file of testdata: resources, and what their clients get.
type goldenCase struct {
	name      string
	path      string
	archive   *txtar.Archive
	resources []*api.Resource
}

// TestGolden compares what the clients of each case get with the file. The
// section resources.yaml is a list of resources; each client that the comment's
// line "clients:" names has a section of problems and one for each type, or for
// those types that the comment's line "show:" names: what the case is about.
func TestGolden(t *testing.T) {
	for _, c := range loadCases(t) {
		t.Run(c.name, func(t *testing.T) {
			want := map[string]string{}
			for _, f := range c.archive.Files {
				if _, twice := want[f.Name]; twice {
					t.Errorf("section %s comes twice", f.Name)
				}
				want[f.Name] = string(f.Data)
			}
			got := []txtar.File{{Name: resourcesSection, Data: []byte(want[resourcesSection])}}
			for _, client := range c.clients(t) {
				got = append(got, sections(t, c, client)...)
			}
			if *update {
				c.archive.Files = got
				if err := os.WriteFile(c.path, txtar.Format(c.archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, f := range got {
				if diff := cmp.Diff(want[f.Name], string(f.Data)); diff != "" {
					t.Errorf("section %s (-file +got):\n%s", f.Name, diff)
				}
				delete(want, f.Name)
			}
			for stale := range maps.Keys(want) {
				t.Errorf("section %s is stale: nothing makes it any more", stale)
			}
		})
	}
}

const resourcesSection = "resources.yaml"

func loadCases(t testing.TB) []*goldenCase {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var out []*goldenCase
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := &goldenCase{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), path: path, archive: archive}
		i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == resourcesSection })
		if i < 0 {
			t.Fatalf("%s has no section %s", path, resourcesSection)
		}
		c.resources = parseResources(t, path, archive.Files[i].Data)
		out = append(out, c)
	}
	return out
}

// clients are the keys that the comment's line "clients: kind/name ..." names.
func (c *goldenCase) clients(t testing.TB) []api.Key {
	t.Helper()
	var out []api.Key
	for _, w := range c.words("clients:") {
		kind, name, _ := strings.Cut(w, "/")
		out = append(out, api.Key{Owner: account, Mesh: c.resources[0].Key.Mesh, Kind: api.Kind(kind), Name: name})
	}
	if out == nil {
		t.Fatalf("%s: the comment has no line clients:", c.path)
	}
	return out
}

// words are those of the comment's line that begins with label.
func (c *goldenCase) words(label string) []string {
	for line := range strings.Lines(string(c.archive.Comment)) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), label); ok {
			return strings.Fields(words)
		}
	}
	return nil
}

// parseResources reads a list of {kind, name, parent, spec}. The first is the
// mesh; each was created a minute after the one before it.
func parseResources(t testing.TB, path string, text []byte) []*api.Resource {
	t.Helper()
	var rows []struct {
		Mesh     string           `json:"mesh"`
		Kind     api.Kind         `json:"kind"`
		Parent   string           `json:"parent"`
		Name     string           `json:"name"`
		Spec     json.RawMessage  `json:"spec"`
		Settings api.MeshSettings `json:"settings"`
	}
	if err := yaml.UnmarshalStrict(text, &rows); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out []*api.Resource
	for i, row := range rows {
		if row.Kind == "" {
			row.Kind, row.Name = api.KindMesh, row.Mesh
		}
		if row.Spec == nil {
			row.Spec = json.RawMessage("{}")
		}
		spec, err := api.DecodeSpec(row.Kind, row.Spec)
		if err != nil {
			t.Fatalf("%s: %s %s: %v", path, row.Kind, row.Name, err)
		}
		owner := rows[0].Mesh
		out = append(out, &api.Resource{
			Key:  api.Key{Owner: account, Mesh: owner, Kind: row.Kind, Parent: row.Parent, Name: row.Name},
			Spec: spec, Settings: row.Settings, Owner: account, Version: 1, Created: time.Unix(int64(60*i), 0),
		})
	}
	return out
}

func (c *goldenCase) bundle(t testing.TB, client api.Key) (*envoy.Bundle, []mesh.Problem) {
	t.Helper()
	view, problems, _ := mesh.NewSnapshot(1, c.resources).View(mesh.Client{Key: client})
	if view == nil {
		t.Fatalf("%s: client %s does not exist", c.path, client)
	}
	bundle, more := new(envoy.Builder).Build(view, nil)
	return bundle, slices.Concat(problems, more)
}

// sections renders what a client gets.
func sections(t testing.TB, c *goldenCase, client api.Key) []txtar.File {
	t.Helper()
	bundle, problems := c.bundle(t, client)
	bundle = bundle.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
		return []envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}}, q.Service != "unknown"
	})
	var out []txtar.File
	show := c.words("show:")
	section := func(name, text string) {
		if text != "" {
			out = append(out, txtar.File{Name: fmt.Sprintf("%s.%s", client.Name, name), Data: []byte(text)})
		}
	}
	var text strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&text, "%s %s: %s\n", p.Reason, p.Key, p.Message)
	}
	section("problems", text.String())
	for _, x := range []struct {
		name string
		of   envoy.Type
	}{{"listeners", envoy.Listener}, {"routes", envoy.Route}, {"clusters", envoy.Cluster}, {"endpoints", envoy.LoadAssignment}} {
		if show != nil && !slices.Contains(show, x.name) {
			continue
		}
		var all []any
		for _, r := range bundle.List(x.of).Resources {
			all = append(all, readable(t, x.of, r))
		}
		if all != nil {
			text, err := yaml.Marshal(all)
			if err != nil {
				t.Fatal(err)
			}
			section(x.name+".yaml", string(text))
		}
	}
	return out
}

func readable(t testing.TB, of envoy.Type, r *envoy.Resource) any {
	t.Helper()
	m, err := (&anypb.Any{TypeUrl: of.URL(), Value: r.Append(nil)}).UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	text, err := envoy.JSON(m)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
