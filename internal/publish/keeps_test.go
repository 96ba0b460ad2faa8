package publish_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// named is the route of color.local to a port of a node.
func named(to string, port int) change {
	c := route("color", to, 1)
	c.spec = strings.Replace(c.spec, `"weight":1`, fmt.Sprintf(`"weight":1,"port":%d`, port), 1)
	return c
}

// provided is color.local, which a node provides.
func provided(by string) change {
	return change{kind: api.KindVirtualService, name: "color.local", spec: fmt.Sprintf(`{"provider":{"virtualNode":{"virtualNodeName":%q}}}`, by)}
}

// during calls check again and again while the other goroutine looks a few times.
func during(check func()) {
	for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
		check()
	}
}

// waitingRoute is a mesh in which front's route to v2 stays although one to a port is
// stored that v1 has not accepted; v1's acceptance is behind the gate.
func waitingRoute(t *testing.T, s *store.Store, delta bool, was change) (k *kept, front, v2 *adstest.Proxy, target *gate) {
	t.Helper()
	write(t, s, append(lone("8080"), node("v2"), was)...)
	k = newKept(t, s, "a", time.Now)
	var v1 *adstest.Proxy
	front, v1, v2 = k.named(t, "front", "f", delta), k.named(t, "v1", "v", delta), k.named(t, "v2", "w", delta)
	for _, p := range []*adstest.Proxy{front, v1, v2} {
		ready(t, p)
	}
	target = shut(t, v1, adstest.LDS)
	write(t, s, listening("v1", "8080 9090"))
	k.reach(t, write(t, s, named("v1", 9090)))
	return k, front, v2, target
}

// Routes that stay lead to a port that their node gives up meanwhile: it is served,
// and seen, until nobody has those routes.
func TestAPortThatRoutesOfBeforeLeadToStays(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		for _, already := range []bool{false, true} {
			s := storetest.New(t)
			k, front, v2, target := waitingRoute(t, s, delta, named("v2", 8080))
			goal, between := "9191", "8080 raw_buffer, 9191 raw_buffer"
			if already { // the node has both; then nobody waits for it
				write(t, s, listening("v2", "8080 9191"))
				v2.Wait(t, "both ports", func() bool { return inbound(t, v2) == between })
				<-time.After(600 * time.Millisecond)
			}
			k.reach(t, write(t, s, listening("v2", goal)))
			v2.Wait(t, "both ports", func() bool { return inbound(t, v2) == between })
			during(func() {
				if got := routed(t, front); got != "v2_http_8080" {
					t.Fatalf("the client's routes lead to %q", got)
				}
				if _, ok := front.Clusters(t)["cds_egress_m_v2_http_8080"]; !ok {
					t.Fatal("the client has no cluster for its routes")
				}
				if got := inbound(t, v2); got != between {
					t.Fatalf("the node has %q although routes lead to 8080", got)
				}
			})
			client := shut(t, front, adstest.RDS)
			target.let()
			during(func() {
				if got := inbound(t, v2); got != between {
					t.Fatalf("the node has %q although the client has not left 8080", got)
				}
			})
			client.let()
			front.Wait(t, "the new route", func() bool { return routed(t, front) == "v1_http_9090" })
			v2.Wait(t, "the new port alone", func() bool { return inbound(t, v2) == "9191 raw_buffer" })
			settled(t, s)
		}
	})
}

// The same of plaintext, which the node takes until the client has accepted TLS.
func TestPlaintextThatRoutesOfBeforeUseStays(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		k, front, v2, target := waitingRoute(t, s, delta, route("color", "v2", 1))
		client := shut(t, front, adstest.CDS)
		const between = "8080 raw_buffer, 8080 tls"
		k.reach(t, write(t, s, listening("v2", "8080/STRICT")))
		v2.Wait(t, "both", func() bool { return inbound(t, v2) == between })
		during(func() {
			if got := inbound(t, v2); got != between {
				t.Fatalf("the node takes %q although its client has not accepted TLS", got)
			}
			if got := routed(t, front); got != "v2_http_8080" {
				t.Fatalf("the client's routes lead to %q", got)
			}
		})
		client.let()
		target.let()
		front.Wait(t, "the new route", func() bool { return routed(t, front) == "v1_http_9090" })
		v2.Wait(t, "TLS alone", func() bool { return inbound(t, v2) == "8080 tls" })
		settled(t, s)
	})
}

// A node that is deleted when nothing that is stored leads to it is a target for as
// long as routes of before are.
func TestRoutesOfBeforeLeadToADeletedNode(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		k, front, _, target := waitingRoute(t, s, delta, route("color", "v2", 1))
		k.reach(t, write(t, s, change{kind: api.KindVirtualNode, name: "v2"}))
		late := k.named(t, "front", "late", delta)
		ready(t, late)
		during(func() {
			for _, p := range []*adstest.Proxy{front, late} {
				if got := routed(t, p); got != "v2_http_8080" {
					t.Fatalf("the client's routes lead to %q", got)
				}
			}
		})
		target.let()
		for _, p := range []*adstest.Proxy{front, late} {
			p.Wait(t, "the new route, and nothing of the node", func() bool {
				_, left := p.Clusters(t)["cds_egress_m_v2_http_8080"]
				return routed(t, p) == "v1_http_9090" && !left
			})
		}
		settled(t, s)
	})
}

// The same when all of it is one transaction.
func TestRoutesOfBeforeLeadToANodeDeletedWithThem(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, append(lone("8080"), node("v2"), named("v2", 8080))...)
	k := newKept(t, s, "a", time.Now)
	front, v1 := k.named(t, "front", "f", true), k.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	target := shut(t, v1, adstest.LDS)
	k.reach(t, write(t, s, listening("v1", "8080 9090"), named("v1", 9090), change{kind: api.KindVirtualNode, name: "v2"}))
	during(func() {
		if got := routed(t, front); got != "v2_http_8080" {
			t.Fatalf("the client's routes lead to %q", got)
		}
	})
	target.let()
	front.Wait(t, "the new route", func() bool { return routed(t, front) == "v1_http_9090" })
	settled(t, s)
}

// A service goes on with the provider of before until its new one, a node, has all
// its ports; and so when all that provided it is deleted meanwhile.
func TestAServiceWaitsForItsProvidersPorts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before []change // provides color.local beside green
		gone   []change
	}{
		{"a node", []change{node("blue"), provided("blue")}, []change{{kind: api.KindVirtualNode, name: "blue"}}},
		{
			"a router", append(service("color.local", "color"), node("blue"), route("color", "blue", 1)),
			[]change{{kind: api.KindRoute, parent: "color", name: "all"}, {kind: api.KindVirtualRouter, name: "color"}, {kind: api.KindVirtualNode, name: "blue"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := storetest.New(t)
			write(t, s, append(test.before, theMesh, node("front", "color.local"), listening("green", "9090"))...)
			k := newKept(t, s, "a", time.Now)
			front, green := k.named(t, "front", "f", true), k.named(t, "green", "g", true)
			ready(t, front)
			ready(t, green)
			target := shut(t, green, adstest.LDS)
			write(t, s, listening("green", "9090 8080"))
			k.reach(t, write(t, s, provided("green")))
			served := func(by string) bool {
				_, routes := front.Routes(t)["rds_egress_http_8080"]
				_, cluster := front.Clusters(t)["cds_egress_m_"+by+"_http_8080"]
				return routes && cluster
			}
			during(func() {
				if !served("blue") {
					t.Fatal("the service is not served at 8080")
				}
			})
			for _, c := range test.gone {
				k.reach(t, write(t, s, c))
			}
			during(func() {
				if !served("blue") {
					t.Fatal("with what provided it deleted, the service is not served at 8080")
				}
			})
			target.let()
			front.Wait(t, "the new provider", func() bool { return served("green") && !served("blue") })
			settled(t, s)
		})
	}
}

// Two services change places at new ports of the same nodes: nobody waits in a circle.
func TestRoutesThatWaitForEachOthersNodes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	shape := func(router, to string, port int) change {
		c := named(to, port)
		c.parent = router
		return c
	}
	write(t, s, append(append(service("color.local", "color"), service("shape.local", "shape")...),
		theMesh, node("front", "color.local", "shape.local"), node("v1"), node("v2"), named("v1", 8080), shape("shape", "v2", 8080))...)
	k := newKept(t, s, "a", time.Now)
	front, v1, v2 := k.named(t, "front", "f", true), k.named(t, "v1", "v", true), k.named(t, "v2", "w", true)
	for _, p := range []*adstest.Proxy{front, v1, v2} {
		ready(t, p)
	}
	one, two := shut(t, v1, adstest.LDS), shut(t, v2, adstest.LDS)
	write(t, s, listening("v1", "9090"), listening("v2", "9191"), named("v2", 9191), shape("shape", "v1", 9090))
	one.let()
	v1.Wait(t, "both ports", func() bool { return inbound(t, v1) == "8080 raw_buffer, 9090 raw_buffer" })
	during(func() {
		if got := inbound(t, v1); got != "8080 raw_buffer, 9090 raw_buffer" {
			t.Fatalf("the node has %q although routes lead to 8080", got)
		}
		if _, ok := front.Clusters(t)["cds_egress_m_v1_http_8080"]; !ok {
			t.Fatal("the client has no cluster for its routes")
		}
	})
	two.let()
	v1.Wait(t, "the new port alone", func() bool { return inbound(t, v1) == "9090 raw_buffer" })
	v2.Wait(t, "the new port alone", func() bool { return inbound(t, v2) == "9191 raw_buffer" })
	front.Wait(t, "the new routes", func() bool {
		return routed(t, front) == "v1_http_9090, v2_http_9191"
	})
	settled(t, s)
}

// The client is at one replica, and the nodes that its routes lead to, of before and
// after, at another.
func TestReplicasKeepForEachOthersClients(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], append(lone("8080"), node("v2"), named("v2", 8080))...)
	a, b := newKept(t, stores[0], "a", time.Now), newKept(t, stores[1], "b", time.Now)
	front, v1, v2 := a.named(t, "front", "f", true), b.named(t, "v1", "v", true), b.named(t, "v2", "w", true)
	for _, p := range []*adstest.Proxy{front, v1, v2} {
		ready(t, p)
	}
	target, client := shut(t, v1, adstest.LDS), shut(t, front, adstest.RDS)
	write(t, stores[0], listening("v1", "8080 9090"))
	write(t, stores[0], named("v1", 9090))
	write(t, stores[0], listening("v2", "9191"))
	const between = "8080 raw_buffer, 9191 raw_buffer"
	v2.Wait(t, "both ports", func() bool { return inbound(t, v2) == between })
	stays := func() {
		if got := inbound(t, v2); got != between {
			t.Fatalf("the node has %q although the client at another replica uses 8080", got)
		}
	}
	during(stays)
	if got := routed(t, front); got != "v2_http_8080" {
		t.Fatalf("the client's routes lead to %q", got)
	}
	target.let()
	during(stays)
	client.let()
	front.Wait(t, "the new route", func() bool { return routed(t, front) == "v1_http_9090" })
	v2.Wait(t, "the new port alone", func() bool { return inbound(t, v2) == "9191 raw_buffer" })
	settled(t, stores[0])
}
