package envoy_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
)

var update = flag.Bool("update", false, "rewrite the expected sections of testdata/*.txtar")

// TestGolden compares what the clients of each case get with the file. The
// section resources.yaml is a list of resources; each client that the comment's
// line "clients:" names has a section of problems and one for each type, or for
// those types that the comment's line "show:" names: what the case is about.
func TestGolden(t *testing.T) {
	for _, c := range envoytest.Cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			want := map[string]string{}
			for _, f := range c.Archive.Files {
				if _, twice := want[f.Name]; twice {
					t.Errorf("section %s comes twice", f.Name)
				}
				want[f.Name] = string(f.Data)
			}
			got := []txtar.File{{Name: envoytest.ResourcesSection, Data: []byte(want[envoytest.ResourcesSection])}}
			for _, client := range c.Clients(t) {
				got = append(got, sections(t, c, client)...)
			}
			if *update {
				c.Archive.Files = got
				if err := os.WriteFile(c.Path, txtar.Format(c.Archive), 0o644); err != nil {
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

// sections renders what a client gets.
func sections(t testing.TB, c *envoytest.Case, client api.Key) []txtar.File {
	t.Helper()
	bundle, problems := c.Bundle(t, client)
	bundle = bundle.WithEndpoints(func(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
		return []envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}}, q.Service != "unknown"
	})
	var out []txtar.File
	show := c.Words("show:")
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
