package envoy_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Proxies of one mesh that are measured and others that are not share a builder,
// and what either gets does not depend on who was there first. What they share, all
// of a kind share.
func TestMetricsAreOfTheirProxiesAlone(t *testing.T) {
	c := caseOf(t, "OBS-024_OBS-025_metrics")
	snapshot := mesh.NewSnapshot(1, c.Resources)
	shared := &envoy.Builder{}
	build := func(o *envoy.Builder, client mesh.Client) *envoy.Bundle {
		view, _, _ := snapshot.View(client)
		b, problems := o.Build(view, nil)
		if len(problems) > 0 {
			t.Fatalf("problems: %v", problems)
		}
		return b
	}
	for _, key := range c.Clients(t) {
		t.Run(key.Name, func(t *testing.T) {
			of := func(measured bool) mesh.Client { return mesh.Client{Key: key, Traits: mesh.Traits{Metrics: measured}} }
			kept := []*envoy.Bundle{}
			for _, measured := range []bool{false, true, false, true} {
				got, want := build(shared, of(measured)), build(&envoy.Builder{}, of(measured))
				kept = append(kept, got)
				some := false
				for _, typ := range envoy.Types() {
					if got.List(typ).Hash != want.List(typ).Hash {
						t.Errorf("with metrics %v: type %d is another in company", measured, typ)
					}
					for _, r := range got.List(typ).Resources {
						text := string(r.Append(nil))
						some = some || strings.Contains(text, "access_loggers.stats") || strings.Contains(text, "ConnectionCount") || strings.Contains(text, "appmesh.metrics")
					}
				}
				if some != measured {
					t.Errorf("with metrics %v: counted is %v", measured, some)
				}
			}
			for _, typ := range []envoy.Type{envoy.Cluster, envoy.Route} {
				plain, measured := kept[0].List(typ).Resources, kept[1].List(typ).Resources
				for i := range plain {
					for _, again := range []struct{ one, two *envoy.Resource }{{plain[i], kept[2].List(typ).Resources[i]}, {measured[i], kept[3].List(typ).Resources[i]}} {
						if typ == envoy.Cluster && again.one != again.two {
							t.Errorf("%s is made twice", again.one.Name)
						}
						for j, h := range again.one.Hosts {
							if h != again.two.Hosts[j] {
								t.Errorf("%s of %s is made twice", h.Name, again.one.Name)
							}
						}
					}
				}
			}
		})
	}
}

func caseOf(t *testing.T, name string) *envoytest.Case {
	t.Helper()
	for _, c := range envoytest.Cases(t) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no case %s", name)
	return nil
}
