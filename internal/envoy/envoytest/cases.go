// Package envoytest has what tests of translation share: the cases of the
// translator with what their clients get (cases.go), and real Envoys that have a
// bundle and tell where requests arrive (real.go, intercepted.go).
package envoytest

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Account owns everything in the cases.
const Account = "123456789012"

// ResourcesSection is the section of a case that has its resources.
const ResourcesSection = "resources.yaml"

// Case is one file of the translator's testdata: resources, and what their
// clients get.
type Case struct {
	Name      string
	Path      string
	Archive   *txtar.Archive
	Resources []*api.Resource
}

// Cases are all cases of the translator, wherever in the module the test is.
func Cases(t testing.TB) []*Case {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(root, "internal/envoy/testdata/*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var out []*Case
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := &Case{Name: strings.TrimSuffix(filepath.Base(path), ".txtar"), Path: path, Archive: archive}
		i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == ResourcesSection })
		if i < 0 {
			t.Fatalf("%s has no section %s", path, ResourcesSection)
		}
		c.Resources = Parse(t, path, archive.Files[i].Data)
		out = append(out, c)
	}
	return out
}

// Clients are the keys that the comment's line "clients: kind/name ..." names.
func (c *Case) Clients(t testing.TB) []api.Key {
	t.Helper()
	var out []api.Key
	for _, w := range c.Words("clients:") {
		kind, name, _ := strings.Cut(w, "/")
		out = append(out, api.Key{Owner: Account, Mesh: c.Resources[0].Key.Mesh, Kind: api.Kind(kind), Name: name})
	}
	if out == nil {
		t.Fatalf("%s: the comment has no line clients:", c.Path)
	}
	return out
}

// Traits are those of the clients, by the comment's line "traits:": "metrics", or
// nothing. A line "direct:" is what mesh.Direct says.
func (c *Case) Traits() (t mesh.Traits) {
	t.Metrics = slices.Contains(c.Words("traits:"), "metrics")
	t.Direct = mesh.Direct(strings.Join(c.Words("direct:"), " "))
	return t
}

// Words are those of the comment's line that begins with label.
func (c *Case) Words(label string) []string {
	for line := range strings.Lines(string(c.Archive.Comment)) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), label); ok {
			return strings.Fields(words)
		}
	}
	return nil
}

// Parse reads a list of {kind, name, parent, spec}. The first is the
// mesh; each was created a minute after the one before it.
func Parse(t testing.TB, path string, text []byte) []*api.Resource {
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
			Key:  api.Key{Owner: Account, Mesh: owner, Kind: row.Kind, Parent: row.Parent, Name: row.Name},
			Spec: spec, Settings: row.Settings, Owner: Account, Version: 1, Created: time.Unix(int64(60*i), 0),
		})
	}
	return out
}

// Bundle is what a client gets, with the problems of the view and of the bundle.
func (c *Case) Bundle(t testing.TB, client api.Key) (*envoy.Bundle, []mesh.Problem) {
	t.Helper()
	view, problems, _ := mesh.NewSnapshot(1, c.Resources).View(mesh.Client{Key: client, Traits: c.Traits()})
	if view == nil {
		t.Fatalf("%s: client %s does not exist", c.Path, client)
	}
	bundle, more := new(envoy.Builder).Build(view, nil)
	return bundle, slices.Concat(problems, more)
}

// BundleOf is what a client of a case gets.
func BundleOf(t testing.TB, file, client string) *envoy.Bundle {
	t.Helper()
	for _, c := range Cases(t) {
		if c.Name == file {
			kind, name, _ := strings.Cut(client, "/")
			for _, key := range c.Clients(t) {
				if string(key.Kind) == kind && key.Name == name {
					b, _ := c.Bundle(t, key)
					return b
				}
			}
		}
	}
	t.Fatalf("no client %s in case %s", client, file)
	return nil
}
