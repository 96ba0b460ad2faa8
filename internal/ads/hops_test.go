package ads

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/envoy"
)

const (
	firstHop = "rds_ingress_http_80"
	behind   = "rds_egress_http_15001"
)

// gatewaySpec is a gateway's goal whose first hop leads to these services. Each is
// in a cluster of its name.
func gatewaySpec(services ...string) spec {
	s := spec{envoy.Listener: {resource("in", "1"), resource("out", "1")}}
	var hosts []*envoy.VirtualHost
	for _, name := range services {
		s[envoy.Cluster] = append(s[envoy.Cluster], resource(name, "1"))
		hosts = append(hosts, virtualHost(name, "1", name))
	}
	s[envoy.Route] = []*envoy.Resource{routeOf(firstHop, virtualHost("all", fmt.Sprint(services))), routeOf(behind, hosts...)}
	return s
}

func gatewayLine(t *testing.T, delta bool, services ...string) *line {
	t.Helper()
	l := newLine(t, delta, gatewaySpec(services...))
	l.ask(envoy.Cluster)
	l.ask(envoy.Listener)
	l.settle()
	l.ask(envoy.Route, behind, firstHop)
	l.settle()
	if !l.m.reached(envoy.Route) {
		t.Fatal("the proxy is not at the goal")
	}
	l.now = l.now.Add(time.Minute)
	return l
}

// hosts checks which virtual hosts of the second hop are on their way.
func (l *line) hosts(f *flight, want ...string) {
	l.t.Helper()
	var got []string
	for _, h := range f.sent[0].Hosts {
		got = append(got, h.Name)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Fatalf("virtual hosts (-want +got):\n%s", diff)
	}
}

func TestAServiceIsBehindTheFirstHopBeforeAndAfter(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := gatewayLine(t, delta, "a", "b")
		l.aim(gatewaySpec("b", "c"))
		cds := l.sends(map[bool]string{true: "cds c", false: "cds a b c"}[delta])[envoy.Cluster]
		l.ack(cds) // until then the first hop stays, too
		rds := l.sends("rds " + behind)[envoy.Route]
		l.hosts(rds, "a", "b", "c")
		l.ack(rds)
		l.ack(l.sends("rds " + firstHop)[envoy.Route])
		// Requests may be on the way between the two.
		l.sends()
		f, at := l.m.next(l.now)
		if f != nil || at != l.now.Add(linger) {
			t.Fatalf("sends %v, then waits until %v, want nothing until %v", f, at, l.now.Add(linger))
		}
		l.now = at
		rds = l.sends("rds " + behind)[envoy.Route]
		l.hosts(rds, "b", "c")
		l.ack(rds)
		l.settle()
		for _, typ := range envoy.Types() {
			if !l.m.reached(typ) {
				t.Errorf("type %d is not at the goal", typ)
			}
		}
	})
}

func TestAServiceLeavesTheFirstHopFirst(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := gatewayLine(t, delta, "a", "b")
		l.aim(gatewaySpec("b"))
		l.ack(l.sends("rds " + firstHop)[envoy.Route])
		l.sends()
		l.now = l.now.Add(linger)
		rds := l.sends("rds " + behind)[envoy.Route]
		l.hosts(rds, "b")
		l.ack(rds)
		l.settle() // then the cluster goes
		if diff := cmp.Diff([]string{"b=1"}, l.has(envoy.Cluster)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestARefusedSecondHopKeepsTheFirst(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := gatewayLine(t, delta, "a")
		before := l.has(envoy.Route)
		l.aim(gatewaySpec("a", "b"))
		l.ack(l.sends(map[bool]string{true: "cds b", false: "cds a b"}[delta])[envoy.Cluster])
		l.nack(l.sends("rds " + behind)[envoy.Route], "no")
		l.sends()
		if !slices.ContainsFunc(l.has(envoy.Route), func(r string) bool { return slices.Contains(before, r) && r[:len(firstHop)] == firstHop }) {
			t.Errorf("the first hop is %v, want that of %v", l.has(envoy.Route), before)
		}
		// The next goal is tried.
		l.aim(gatewaySpec("a", "c"))
		l.settle()
		l.now = l.now.Add(linger)
		l.settle()
		if !l.m.reached(envoy.Route) {
			t.Error("the proxy is not at the goal")
		}
	})
}

// Who takes the first hop alone waits for nothing.
func TestAFirstHopWithoutASecond(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := newLine(t, delta, gatewaySpec("a"))
		l.ask(envoy.Cluster)
		l.ask(envoy.Listener)
		l.settle()
		l.ask(envoy.Route, firstHop)
		l.ack(l.sends("rds " + firstHop)[envoy.Route])
	})
}
