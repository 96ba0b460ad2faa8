//go:build linux

package fields

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// TestGoldens compares what each case changes in the configuration of the
// scene's Envoys with testdata/SCENE.txtar.
func TestGoldens(t *testing.T) {
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			base, err := parseBase(s.name, s.base)
			if err != nil {
				t.Fatal(err)
			}
			out := txtar.Archive{Comment: []byte("What each case of the scene " + s.name + " changes in the configuration of its Envoys.\n\n")}
			number := byte(0)
			addresses := map[string][2]netip.Addr{}
			endpoints := s.startCloudMap(t, func(node string) (v4, v6 netip.Addr) {
				if _, ok := addresses[node]; !ok {
					number++
					addresses[node] = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, number}), netip.MustParseAddr(fmt.Sprint("2001:db8::", number))}
				}
				return addresses[node][0], addresses[node][1]
			})
			for _, f := range s.fields {
				before, after := f.states(t, base)
				text := golden(t, s, f, before, after, endpoints)
				if text == "" {
					t.Errorf("%s changes nothing", f.name(t))
				}
				if f.ignored != "" && !strings.HasPrefix(text, "ignored: ") {
					t.Errorf("%s is not ignored, or not reported to be:\n%s", f.name(t), text)
				}
				out.Files = append(out.Files, txtar.File{Name: f.name(t), Data: []byte(text)})
			}
			compare(t, goldenName(s), string(txtar.Format(&out)))
		})
	}
}

func goldenName(s scene) string { return s.mesh() + ".txtar" }

// golden is what the change from one list of resources to another does to the
// Envoys of the scene, or why the API refuses it, or the problem that says that it is
// ignored.
func golden(t *testing.T, s scene, f field, before, after []resource, endpoints *cloudMap) string {
	t.Helper()
	old, err := snapshot(s.mesh(), 1, before)
	if err != nil {
		t.Fatal(err)
	}
	now, err := snapshot(s.mesh(), 1, after)
	if err != nil {
		return "refused: " + err.Error() + "\n"
	}
	var b strings.Builder
	reported := ""
	for _, name := range s.envoys {
		was, is := configuration(t, old, client(s.mesh(), name), endpoints), configuration(t, now, client(s.mesh(), name), endpoints)
		for line := range strings.Lines(is["problems"].problems) {
			if f.ignored != "" && strings.Contains(line, f.ignored) {
				reported = line
				delete(was, "problems")
				delete(is, "problems")
			}
		}
		var names []string
		for n := range was {
			names = append(names, n)
		}
		for n := range is {
			if _, both := was[n]; !both {
				names = append(names, n)
			}
		}
		slices.Sort(names)
		for _, n := range names {
			if was[n].hash != is[n].hash {
				fmt.Fprintf(&b, "%s: %s\n%s", name, n, plan.Difference(was[n].text(t), is[n].text(t)))
			}
		}
	}
	if b.Len() == 0 && reported != "" {
		return "ignored: " + reported
	}
	return b.String()
}

// part is what a configuration has under one name: Envoy's resources, of which a
// cluster and its endpoints are two, or problems.
type part struct {
	hash      string
	resources []typed
	problems  string
}

type typed struct {
	of envoy.Type
	*envoy.Resource
}

// text is the part as people read it.
func (p part) text(t *testing.T) []byte {
	t.Helper()
	var out []byte
	for _, r := range p.resources {
		m, err := (&anypb.Any{TypeUrl: r.of.URL(), Value: r.Append(nil)}).UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		text, err := envoy.JSON(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, plan.YAML(text)...)
	}
	return append(out, p.problems...)
}

// configuration is the client's, by name.
func configuration(t *testing.T, s *mesh.Snapshot, c mesh.Client, endpoints *cloudMap) map[string]part {
	t.Helper()
	view, problems, _ := s.View(c)
	if view == nil {
		t.Fatalf("%s does not exist", c.Key)
	}
	bundle, more := new(envoy.Builder).Build(view, nil)
	bundle = bundle.WithEndpoints(endpoints.endpoints)
	out := map[string]part{}
	for _, of := range envoy.Types() {
		for _, r := range bundle.List(of).Resources {
			p := out[r.Name]
			p.hash += " " + r.Hash
			p.resources = append(p.resources, typed{of, r})
			out[r.Name] = p
		}
	}
	for _, x := range slices.Concat(problems, more) {
		p := out["problems"]
		p.problems += fmt.Sprintf("%s %s: %s\n", x.Reason, x.Key, x.Message)
		p.hash = p.problems
		out["problems"] = p
	}
	return out
}
