package meshdns_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// model is what ought to be registered of one service.
type model struct {
	id        string
	instances map[string]modelled
	dead      map[string]bool // of those, unhealthy
}

type modelled struct{ v4, v6, color string }

// Whatever is registered, deregistered and reported in whatever order: the answers
// of the API, of DNS and what is pushed are those of a model.
func TestAllAgree(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	ns := g.namespace("apps.local", 5)
	tries := 0
	rapid.Check(t, func(t *rapid.T) {
		tries++
		names := []string{fmt.Sprintf("red%d", tries), fmt.Sprintf("blue%d", tries)}
		services, pushed := map[string]*model{}, map[string]*heard{}
		for _, name := range names {
			services[name] = &model{id: g.create(ns, name, "MULTIVALUE", "A 5", "AAAA 5"), instances: map[string]modelled{}, dead: map[string]bool{}}
			for _, attributes := range []string{"", "color=blue"} {
				pushed[name+attributes] = listen(g, t, envoy.EndpointQuery{Source: "cloudmap", Account: account, Namespace: "apps.local", Service: name, Attributes: attributes, Port: 80})
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				m, id := services[rapid.SampledFrom(names).Draw(t, "service")], rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "id")
				one := modelled{v4: fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 4).Draw(t, "v4")), color: rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "color")}
				attributes := []string{"AWS_INSTANCE_IPV4", one.v4, "color", one.color}
				if rapid.Bool().Draw(t, "both families") {
					one.v6 = fmt.Sprintf("fd00::%d", rapid.IntRange(1, 4).Draw(t, "v6"))
					attributes = append(attributes, "AWS_INSTANCE_IPV6", one.v6)
				}
				switch health := rapid.SampledFrom([]string{"", "HEALTHY", "UNHEALTHY"}).Draw(t, "health"); health {
				case "":
				default:
					attributes = append(attributes, "AWS_INIT_HEALTH_STATUS", health)
					m.dead[id] = health == "UNHEALTHY"
				}
				m.instances[id] = one
				g.register(m.id, id, attributes...)
			},
			"deregister": func(t *rapid.T) {
				m := services[rapid.SampledFrom(names).Draw(t, "service")]
				if len(m.instances) == 0 {
					t.Skip("nothing is registered")
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.instances))).Draw(t, "id")
				delete(m.instances, id)
				delete(m.dead, id)
				g.do("DeregisterInstance", map[string]any{"ServiceId": m.id, "InstanceId": id})
			},
			"report": func(t *rapid.T) {
				m := services[rapid.SampledFrom(names).Draw(t, "service")]
				if len(m.instances) == 0 {
					t.Skip("nothing is registered")
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.instances))).Draw(t, "id")
				m.dead[id] = rapid.Bool().Draw(t, "dead")
				g.health(m.id, id, map[bool]string{true: "UNHEALTHY", false: "HEALTHY"}[m.dead[id]])
			},
			"": func(t *rapid.T) {
				for _, name := range names {
					agree(g, t, name, services[name], pushed)
				}
			},
		})
	})
}

// agree compares all answers about a service with the model.
func agree(g *ground, t *rapid.T, name string, m *model, pushed map[string]*heard) {
	healthy := maps.Clone(m.instances)
	for id := range m.dead {
		if m.dead[id] {
			delete(healthy, id)
		}
	}
	for filter, want := range map[string]map[string]modelled{"ALL": m.instances, "HEALTHY": healthy} {
		out := g.do("DiscoverInstances", map[string]any{"NamespaceName": "apps.local", "ServiceName": name, "HealthStatus": filter}).(*cloudmapapi.DiscoverInstancesResponse)
		var got []string
		for _, i := range out.Instances {
			got = append(got, *i.InstanceID)
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			t.Fatalf("discovered with %s are %v of %s, want %v", filter, got, name, slices.Sorted(maps.Keys(want)))
		}
	}
	for attributes, passes := range map[string]func(modelled) bool{
		"": func(modelled) bool { return true }, "color=blue": func(i modelled) bool { return i.color == "blue" },
	} {
		set := map[string]bool{}
		for _, i := range healthy {
			if passes(i) {
				set[i.v4+":80"] = true
			}
		}
		want := strings.Join(slices.Sorted(maps.Keys(set)), " ")
		testenv.Eventually(g.t, fmt.Sprintf("%q is pushed of %s %s", want, name, attributes), func() bool { return pushed[name+attributes].last() == want })
	}
	answered := healthy
	if len(answered) == 0 {
		answered = m.instances
	}
	for kind, of := range map[uint16]func(modelled) string{
		dns.TypeA: func(i modelled) string { return i.v4 }, dns.TypeAAAA: func(i modelled) string { return i.v6 },
	} {
		var records []string
		for _, i := range answered {
			if of(i) != "" {
				records = append(records, fmt.Sprint(dns.TypeToString[kind], " 5 ", netip.MustParseAddr(of(i))))
			}
		}
		slices.Sort(records)
		records = slices.Compact(records)
		code := "NOERROR"
		if len(answered) == 0 {
			code = "NXDOMAIN"
		}
		g.until(name+".apps.local", kind, strings.Join(append([]string{code}, records...), "\n"))
	}
}

// heard is what is pushed for one query.
type heard struct {
	mu  sync.Mutex
	now string
}

func (h *heard) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func listen(g *ground, t *rapid.T, q envoy.EndpointQuery) *heard {
	h := &heard{now: "?"}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = g.registry.Watch(ctx, q, func(set []envoy.Endpoint) {
			var out []string
			for _, e := range set {
				out = append(out, fmt.Sprint(e.Address, ":", e.Port))
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			h.now = strings.Join(out, " ")
		})
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return h
}
