package ads

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/envoy"
)

// The cases of Envoy's xDS protocol page, and of decision D6.

func simple() spec {
	return spec{
		envoy.Cluster:        {resource("a", "1"), resource("b", "1")},
		envoy.LoadAssignment: {resource("b", "1")},
		envoy.Listener:       {resource("in", "1", "a"), resource("out", "1")},
		envoy.Route:          {routeOf("r", virtualHost("x", "1", "a"), virtualHost("y", "1", "b"))},
	}
}

// connected is a stream on which the proxy has everything of the goal.
func connected(t *testing.T, delta bool, s spec) *line {
	t.Helper()
	l := newLine(t, delta, s)
	l.ask(envoy.Cluster)
	l.settle()
	l.ask(envoy.LoadAssignment, "b")
	l.settle()
	l.ask(envoy.Listener)
	l.settle()
	l.ask(envoy.Route, "r")
	l.settle()
	for _, typ := range envoy.Types() {
		if !l.m.reached(typ) {
			t.Fatalf("type %d is not at the goal", typ)
		}
	}
	return l
}

func TestFirstAnswersFollowTheOrderOfEnvoy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := newLine(t, delta, simple())
		l.ask(envoy.Cluster)
		cds := l.sends("cds a b")[envoy.Cluster]
		// Envoy warms b before it acknowledges.
		l.ask(envoy.LoadAssignment, "b")
		eds := l.sends("eds b")[envoy.LoadAssignment]
		l.ask(envoy.Listener)
		l.sends() // its clusters are not acknowledged
		l.ack(eds)
		l.ack(cds)
		lds := l.sends("lds in out")[envoy.Listener]
		l.ack(lds)
		l.ask(envoy.Route, "r")
		l.ack(l.sends("rds r")[envoy.Route])
		l.sends()
	})
}

func TestAnEmptyGoalIsAnswered(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := newLine(t, delta, spec{})
		l.ask(envoy.Cluster)
		l.ack(l.sends("cds")[envoy.Cluster])
		l.ask(envoy.Listener)
		l.ack(l.sends("lds")[envoy.Listener])
		l.sends()
	})
}

func TestNothingIsSentWhenNothingChanged(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := connected(t, delta, simple())
		l.aim(simple()) // equal content in other memory, as after a reset
		l.sends()
	})
}

func TestAWeightChangeSendsOneRouteConfiguration(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"), virtualHost("y", "1", "b"))}
		l.aim(s)
		f := l.sends("rds r")[envoy.Route]
		if f.version != l.m.goal.lists[envoy.Route].Hash || f.system != l.m.goal.version {
			t.Errorf("versions %q and %q are not the goal's", f.version, f.system)
		}
		l.ack(f)
		l.sends()
	})
}

func TestOnlyTheChangedRouteConfigurationIsSent(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		s[envoy.Route] = append(s[envoy.Route], routeOf("s", virtualHost("z", "1", "a")))
		l := newLine(t, delta, s)
		l.ask(envoy.Cluster)
		l.ask(envoy.Listener)
		l.ask(envoy.Route, "r", "s")
		l.settle()
		s[envoy.Route] = []*envoy.Resource{s[envoy.Route][0], routeOf("s", virtualHost("z", "2", "a"))}
		l.aim(s)
		l.sends("rds s")
	})
}

func TestAtMostOneResponseOfATypeIsInFlight(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		for i := range 3 {
			s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", fmt.Sprint("w", i), "a"))}
			l.aim(s)
			f, _ := l.m.next(l.now)
			if (f != nil) != (i == 0) {
				t.Fatalf("change %d: sent %v", i, f)
			}
		}
		l.ack(l.m.of[envoy.Route].flight)
		f := l.sends("rds r")[envoy.Route]
		if f.sent[0].Hosts[0].Hash != "x=w2" {
			t.Errorf("sent %s, want the newest", f.sent[0].Hosts[0].Hash)
		}
	})
}

// A change and its way back within one answer's time (D6.3): who waits for listeners that the proxy had before the change
// must not be told that it has them, while it is on its way to the change.
func TestWhatIsToComeBackIsNotAccepted(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		accepted := func() bool {
			status, ok := l.m.status(envoy.Listener, l.m.goal)
			return ok && status.Accepted != nil && *status.Accepted == *status.Wanted
		}
		s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "a"), resource("out", "1")}
		l.aim(s)
		f, _ := l.m.next(l.now)
		l.aim(simple())
		if l.sends(); accepted() {
			t.Error("accepted, while it is sent something else")
		}
		l.ack(f)
		if accepted() {
			t.Error("accepted, while it has something else")
		}
		l.settle()
		if !accepted() {
			t.Error("not accepted, although it has it again")
		}
	})
}

func TestNewTargetWaitsForItsClusterAndOthersDoNot(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = append(s[envoy.Cluster], resource("c", "1"))
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"), virtualHost("y", "2", "b", "c"), virtualHost("z", "1", "c"))}
		l.aim(s)
		sent := l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta], "rds r")
		var hosts []string
		for _, h := range sent[envoy.Route].sent[0].Hosts {
			hosts = append(hosts, h.Hash)
		}
		if diff := cmp.Diff([]string{"x=2", "y=1"}, hosts); diff != "" {
			t.Errorf("hosts while c is awaited: x is new, y keeps its last form, z is not there yet (-want +got)\n%s", diff)
		}
		l.ack(sent[envoy.Route])
		l.sends()
		l.ack(sent[envoy.Cluster])
		l.ack(l.sends("rds r")[envoy.Route])
		if !l.m.reached(envoy.Route) {
			t.Error("routes are not at the goal")
		}
	})
}

func TestARemovedTargetLeavesRoutesFirst(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = s[envoy.Cluster][:1]
		s[envoy.LoadAssignment] = nil
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"))}
		l.aim(s)
		rds := l.sends("rds r")[envoy.Route]
		l.sends()
		l.ack(rds)
		l.ack(l.sends(map[bool]string{true: "cds -b", false: "cds a"}[delta])[envoy.Cluster])
		l.sends()
	})
}

func TestAListenerWaitsForTheClusterItNames(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = append(s[envoy.Cluster], resource("c", "1"))
		s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "c"), resource("out", "2")}
		l.aim(s)
		lds := map[bool]string{true: "lds out", false: "lds in out"}[delta]
		sent := l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta], lds)
		if !delta && sent[envoy.Listener].sent[0].Hash != "1" {
			t.Error("the waiting listener did not keep its last form")
		}
		l.ack(sent[envoy.Listener])
		l.ack(sent[envoy.Cluster])
		l.ack(l.sends(map[bool]string{true: "lds in", false: "lds in out"}[delta])[envoy.Listener])
		l.sends()
	})
}

func TestSilenceAboutClustersEndsTheWait(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = append(s[envoy.Cluster], resource("c", "1"))
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"), virtualHost("y", "2", "c"))}
		l.aim(s)
		l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta])
		_, wake := l.m.next(l.now)
		if want := l.now.Add(testSilence); !wake.Equal(want) {
			t.Fatalf("wakes at %v, want %v", wake, want)
		}
		l.now = wake
		l.ack(l.sends("rds r")[envoy.Route])
		if !l.m.reached(envoy.Route) || l.m.reached(envoy.Cluster) {
			t.Error("routes are to be at the goal, clusters not")
		}
	})
}

func TestRefusedClustersHoldBackTheirBundle(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = append(s[envoy.Cluster], resource("c", "bad"))
		s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "a"), resource("out", "1")}
		l.aim(s)
		sent := l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta], map[bool]string{true: "lds in", false: "lds in out"}[delta])
		l.ack(sent[envoy.Listener])
		l.nack(sent[envoy.Cluster], "c is bad")
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"), virtualHost("y", "1", "b"))}
		l.sends() // not the same again
		if got := l.m.of[envoy.Cluster].refusal; got == nil || got.Message != "c is bad" {
			t.Errorf("refusal is %v", got)
		}
		l.aim(s)                                                                           // a bundle that differs is tried
		sent = l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta], "rds r") // x does not name c
		l.nack(sent[envoy.Cluster], "still bad")
		l.ack(sent[envoy.Route])
		l.sends()
		s[envoy.Cluster] = s[envoy.Cluster][:2]
		l.aim(s)
		l.settle()
		for _, typ := range envoy.Types() {
			if !l.m.reached(typ) {
				t.Errorf("type %d is not at the goal after the fault was mended", typ)
			}
		}
	})
}

func TestARefusalLeavesTheClustersAndIsNotRepeated(t *testing.T) {
	for typ, name := range map[envoy.Type]string{envoy.Listener: "listeners", envoy.Route: "routes"} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, delta bool) {
				s := simple()
				l := connected(t, delta, s)
				s[envoy.Cluster] = s[envoy.Cluster][:1]
				s[envoy.LoadAssignment] = nil
				s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"))}
				s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "a"), resource("out", "2")}
				l.aim(s)
				sent := l.sends("lds in out", "rds r")
				for other, f := range sent {
					if other == typ {
						l.nack(f, "no")
					} else {
						l.ack(f)
					}
				}
				l.sends() // neither the refused again, nor a removal
				for _, other := range []envoy.Type{envoy.Cluster, envoy.Listener, envoy.Route} {
					status, _ := l.m.status(other, l.m.goal)
					if accepted := status.Accepted != nil && *status.Accepted == *status.Wanted; accepted == (other == typ) {
						t.Errorf("what is wanted of type %d is accepted: %t", other, accepted)
					}
				}
				if diff := cmp.Diff([]string{"a=1", "b=1"}, l.has(envoy.Cluster)); diff != "" {
					t.Error(diff)
				}
				s[typ] = []*envoy.Resource{resource("in", "3", "a"), resource("out", "3")}
				if typ == envoy.Route {
					s[typ] = []*envoy.Resource{routeOf("r", virtualHost("x", "3", "a"))}
				}
				l.aim(s)
				l.settle()
				if diff := cmp.Diff([]string{"a=1"}, l.has(envoy.Cluster)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestARevertedChangeIsSentAgainAfterARefusal(t *testing.T) {
	// Envoy may have applied part of what it refused.
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "b"), resource("out", "bad")}
		l.aim(s)
		l.nack(l.sends("lds in out")[envoy.Listener], "no")
		l.aim(simple())
		l.ack(l.sends("lds in out")[envoy.Listener])
		l.sends()
	})
}

func TestARefusedWithdrawalIsNotRepeated(t *testing.T) {
	s := simple()
	l := connected(t, true, s)
	s[envoy.Cluster] = s[envoy.Cluster][:1]
	s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"))}
	l.aim(s)
	l.ack(l.sends("rds r")[envoy.Route])
	l.nack(l.sends("cds -b")[envoy.Cluster], "no")
	l.sends()
	s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"))}
	l.aim(s)
	l.ack(l.sends("rds r")[envoy.Route])
	l.ack(l.sends("cds -b")[envoy.Cluster])
	l.sends()
}

func TestAWithdrawnListenerThatComesBackIsSentAgain(t *testing.T) {
	// The proxy refused its withdrawal, and may have done it all the same.
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Listener] = s[envoy.Listener][:1]
		l.aim(s)
		l.nack(l.sends(map[bool]string{true: "lds -out", false: "lds in"}[delta])[envoy.Listener], "no")
		l.aim(simple())
		l.ack(l.sends(map[bool]string{true: "lds out", false: "lds in out"}[delta])[envoy.Listener])
		l.sends()
	})
}

func TestClustersWithoutEDSAreOwedNoEndpoints(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := newLine(t, delta, simple())
		l.ask(envoy.Cluster)
		l.ack(l.sends("cds a b")[envoy.Cluster])
		if got := slices.Collect(maps.Keys(l.m.of[envoy.LoadAssignment].owed)); !slices.Equal(got, []string{"b"}) {
			t.Errorf("endpoints of %q are owed", got)
		}
	})
}

func TestEndpointsAreSentAgainAfterTheirCluster(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := simple()
		l := connected(t, delta, s)
		s[envoy.Cluster] = []*envoy.Resource{resource("a", "1"), resource("b", "2")}
		l.aim(s)
		l.sends(map[bool]string{true: "cds b", false: "cds a b"}[delta], "eds b")
	})
}

func TestEndpointsKnownAndUnknown(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		unknown := simple()
		unknown[envoy.LoadAssignment] = nil
		t.Run("a proxy without any waits, then gets an empty set", func(t *testing.T) {
			l := newLine(t, delta, unknown)
			l.ask(envoy.Cluster)
			l.settle()
			l.ask(envoy.LoadAssignment, "b")
			l.sends()
			_, wake := l.m.next(l.now)
			if want := l.now.Add(testPatience); !wake.Equal(want) {
				t.Fatalf("wakes at %v, want %v", wake, want)
			}
			l.now = wake
			f := l.sends("eds b")[envoy.LoadAssignment]
			if f.sent[0].Hash != none || !l.m.of[envoy.LoadAssignment].empty["b"] {
				t.Error("the empty set is not marked")
			}
			l.ack(f)
			l.sends()
			l.aim(simple())
			l.ack(l.sends("eds b")[envoy.LoadAssignment])
			if len(l.m.of[envoy.LoadAssignment].empty) > 0 {
				t.Error("the mark stays although endpoints are known")
			}
		})
		t.Run("what becomes known in time is sent at once", func(t *testing.T) {
			l := newLine(t, delta, unknown)
			l.ask(envoy.Cluster)
			l.settle()
			l.ask(envoy.LoadAssignment, "b")
			l.sends()
			l.aim(simple())
			l.sends("eds b")
		})
		t.Run("a proxy with some keeps them", func(t *testing.T) {
			l := connected(t, delta, simple())
			l.aim(unknown)
			l.now = l.now.Add(time1h)
			l.sends()
		})
		t.Run("a proxy that comes with some keeps them", func(t *testing.T) {
			l := newLine(t, delta, unknown)
			l.receive(request{typ: envoy.Cluster, versions: map[string]string{"a": "1", "b": "1"}, version: l.m.goal.lists[envoy.Cluster].Hash})
			if delta {
				l.receive(request{typ: envoy.LoadAssignment, subscribe: []string{"b"}, versions: map[string]string{"b": "0"}})
			} else {
				l.receive(request{typ: envoy.LoadAssignment, names: []string{"b"}, version: "0"})
			}
			l.now = l.now.Add(time1h)
			l.sends()
		})
	})
}

const time1h = 120 * testSilence

func TestReturningProxiesAreSentTheDifference(t *testing.T) {
	t.Run("delta, nothing changed", func(t *testing.T) {
		l := newLine(t, true, simple())
		l.returning(map[envoy.Type]map[string]string{
			envoy.Cluster: {"a": "1", "b": "1"}, envoy.LoadAssignment: {"b": "1"},
			envoy.Listener: {"in": "1", "out": "1"}, envoy.Route: {"r": simple()[envoy.Route][0].Hash},
		})
		l.sends()
		for _, typ := range envoy.Types() {
			if !l.m.reached(typ) {
				t.Errorf("type %d is not at the goal", typ)
			}
			if &l.m.of[typ].held[0] != &l.m.goal.list(typ)[0] {
				t.Errorf("type %d is a copy", typ)
			}
		}
	})
	t.Run("delta, a target came and one went", func(t *testing.T) {
		l := newLine(t, true, simple())
		l.receive(request{typ: envoy.Cluster, versions: map[string]string{"a": "1", "old": "1"}})
		cds := l.sends("cds b")[envoy.Cluster] // old stays: some route may use it
		l.ack(cds)
		l.receive(request{typ: envoy.Listener, versions: map[string]string{"in": "1", "out": "1"}})
		l.sends()
		l.receive(request{typ: envoy.Route, subscribe: []string{"r"}, versions: map[string]string{"r": "0"}})
		rds := l.sends("rds r")[envoy.Route]
		l.sends()
		l.ack(rds)
		l.ack(l.sends("cds -old")[envoy.Cluster])
		l.sends()
	})
	t.Run("state of the world, nothing changed", func(t *testing.T) {
		l := newLine(t, false, simple())
		g := l.m.goal
		l.receive(request{typ: envoy.Cluster, version: g.lists[envoy.Cluster].Hash})
		l.receive(request{typ: envoy.Listener, version: g.lists[envoy.Listener].Hash})
		l.sends()
		// The version does not say which names it covers.
		l.receive(request{typ: envoy.Route, names: []string{"r"}, version: g.lists[envoy.Route].Hash})
		l.sends("rds r")
	})
	t.Run("state of the world, a target goes before the proxy has said all", func(t *testing.T) {
		s := simple()
		l := newLine(t, false, s)
		l.receive(request{typ: envoy.Cluster, version: l.m.goal.lists[envoy.Cluster].Hash})
		listeners := l.m.goal.lists[envoy.Listener].Hash
		s[envoy.Cluster] = s[envoy.Cluster][:1]
		s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "1", "a"))}
		l.aim(s)
		l.sends() // its routes may still use the target
		l.receive(request{typ: envoy.Listener, version: listeners})
		l.receive(request{typ: envoy.Route, names: []string{"r"}, version: "0"})
		l.ack(l.sends("rds r")[envoy.Route])
		l.sends("cds a")
	})
	t.Run("state of the world, another version", func(t *testing.T) {
		l := newLine(t, false, simple())
		l.receive(request{typ: envoy.Cluster, version: "0"})
		l.receive(request{typ: envoy.Listener, version: "0"})
		cds := l.sends("cds a b")[envoy.Cluster]
		l.ack(cds)
		l.sends("lds in out")
	})
}

func (l *line) returning(has map[envoy.Type]map[string]string) {
	for _, t := range envoy.Types() {
		r := request{typ: t, versions: has[t]}
		if !wild(t) {
			for n := range has[t] {
				r.subscribe = append(r.subscribe, n)
			}
		}
		l.receive(r)
	}
}

func TestSubscriptions(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		t.Run("a name that is asked for again is answered again", func(t *testing.T) {
			l := connected(t, delta, simple())
			if delta {
				l.receive(request{typ: envoy.Route, unsubscribe: []string{"r"}})
			} else {
				l.ask(envoy.Route)
			}
			l.sends()
			l.ask(envoy.Route, "r")
			l.sends("rds r")
		})
		t.Run("what nobody asks for is not sent", func(t *testing.T) {
			s := simple()
			l := newLine(t, delta, s)
			l.ask(envoy.Cluster)
			l.settle()
			s[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"))}
			s[envoy.LoadAssignment] = []*envoy.Resource{resource("b", "2")}
			l.aim(s)
			l.sends()
		})
		t.Run("clusters by name", func(t *testing.T) {
			l := newLine(t, delta, simple())
			l.ask(envoy.Cluster, "b")
			l.ack(l.sends("cds b")[envoy.Cluster])
			l.sends()
		})
		t.Run("the star is everything", func(t *testing.T) {
			l := newLine(t, delta, simple())
			l.ask(envoy.Cluster, "*")
			l.ack(l.sends("cds a b")[envoy.Cluster])
			l.sends()
		})
	})
	t.Run("delta: a name that does not exist is said to be gone", func(t *testing.T) {
		l := connected(t, true, simple())
		l.ask(envoy.Route, "nowhere")
		l.ack(l.sends("rds -nowhere")[envoy.Route])
		l.sends()
		s := simple()
		s[envoy.Route] = append(s[envoy.Route], routeOf("nowhere"))
		l.aim(s)
		l.sends("rds nowhere")
	})
	t.Run("delta: a name given up beside the star is answered", func(t *testing.T) {
		l := newLine(t, true, simple())
		l.ask(envoy.Cluster)
		l.settle()
		l.receive(request{typ: envoy.Cluster, subscribe: []string{"a"}})
		l.ack(l.sends("cds a")[envoy.Cluster])
		l.receive(request{typ: envoy.Cluster, unsubscribe: []string{"a"}})
		l.ack(l.sends("cds a")[envoy.Cluster])
		l.sends()
	})
	t.Run("state of the world: everything, then less", func(t *testing.T) {
		l := newLine(t, false, simple())
		l.ask(envoy.Cluster)
		l.settle()
		l.ask(envoy.Cluster, "a")
		l.ack(l.sends("cds a")[envoy.Cluster])
		s := simple()
		s[envoy.Cluster][1] = resource("b", "2")
		l.aim(s)
		l.sends()
	})
	t.Run("state of the world: an overtaken nonce is passed over", func(t *testing.T) {
		l := connected(t, false, simple())
		f := l.m.of[envoy.Route]
		l.receive(request{typ: envoy.Route, nonce: "0", names: []string{"r", "other"}, version: f.version})
		if l.m.of[envoy.Route].has("other") {
			t.Error("a request with an old nonce changed the subscription")
		}
	})
}

func TestTooManyNamesEndTheStream(t *testing.T) {
	names := make([]string, maxNames+1)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	versions := map[string]string{}
	for _, n := range names {
		versions[n] = "1"
	}
	for name, r := range map[string]request{
		"delta":              {typ: envoy.LoadAssignment, subscribe: names},
		"delta versions":     {typ: envoy.Cluster, versions: versions},
		"delta, given up":    {typ: envoy.Cluster, unsubscribe: names},
		"state of the world": {typ: envoy.LoadAssignment, names: names},
		"a long name":        {typ: envoy.LoadAssignment, names: []string{string(make([]byte, maxName+1))}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t, r.names == nil, simple())
			if err := l.m.receive(l.now, r); err == nil {
				t.Error("was accepted")
			}
		})
	}
	t.Run("one after the other", func(t *testing.T) {
		l := newLine(t, true, simple())
		l.ask(envoy.LoadAssignment, names[:maxNames]...)
		if err := l.m.receive(l.now, request{typ: envoy.LoadAssignment, subscribe: names[maxNames:]}); err == nil {
			t.Error("was accepted")
		}
	})
}

func TestAStreamAtItsGoalKeepsNoCopy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := connected(t, delta, simple())
		for _, typ := range envoy.Types() {
			if &l.m.of[typ].held[0] != &l.m.goal.list(typ)[0] {
				t.Errorf("type %d is a copy", typ)
			}
		}
	})
}
