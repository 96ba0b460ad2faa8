package publish_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// TLS from off to PERMISSIVE to STRICT: clients switch when the target, however
// late, has accepted each, and the target refuses plaintext when they have.
func TestTLSIsUsedWhenTheTargetHasIt(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, lone("8080")...)
		k := newKept(t, s, "a", time.Now)
		front, v1 := k.named(t, "front", "f", delta), k.named(t, "v1", "v", delta)
		ready(t, front)
		ready(t, v1)
		for _, step := range []struct {
			listeners, first, second, last string // of the target
			before, after                  string // of the client
		}{
			{"8080/PERMISSIVE", "8080 raw_buffer, 8080 tls", "", "8080 raw_buffer, 8080 tls", "8080", "8080 tls"},
			{"8080/STRICT", "8080 raw_buffer, 8080 tls", "", "8080 tls", "8080 tls", "8080 tls"},
			{"8080", "8080 raw_buffer, 8080 tls", "", "8080 raw_buffer", "8080 tls", "8080"},
			{"8080/STRICT", "8080 raw_buffer, 8080 tls", "", "8080 tls", "8080", "8080 tls"},
		} {
			late, lateToo := shut(t, v1, adstest.LDS), shut(t, front, adstest.CDS)
			revision := write(t, s, listening("v1", step.listeners))
			k.reach(t, revision)
			// Two looks of the other goroutine, in which the target is late.
			for began := time.Now(); time.Since(began) < 600*time.Millisecond; <-time.After(20 * time.Millisecond) {
				if got := toward(t, front); got != step.before {
					t.Fatalf("%s: before the target has accepted anything its client uses %q, want %q", step.listeners, got, step.before)
				}
			}
			late.let()
			if step.before != step.after {
				// The client has not accepted yet: the target goes on as it is.
				v1.Wait(t, "both", func() bool { return inbound(t, v1) == step.first })
			}
			lateToo.let()
			front.Wait(t, step.after, func() bool { return toward(t, front) == step.after })
			v1.Wait(t, step.last, func() bool { return inbound(t, v1) == step.last })
			settled(t, s)
		}
	})
}

// A port changes: both are served until the client has left the old one.
func TestAPortIsServedUntilNobodyUsesIt(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, lone("8080")...)
		k := newKept(t, s, "a", time.Now)
		front, v1 := k.named(t, "front", "f", delta), k.named(t, "v1", "v", delta)
		ready(t, front)
		ready(t, v1)
		before := chain(t, v1, 8080)
		target, client := shut(t, v1, adstest.LDS), shut(t, front, adstest.RDS)
		began := time.Now()
		k.reach(t, write(t, s, listening("v1", "9090")))
		testenv.Eventually(t, "the turn is written down", func() bool {
			rows, err := s.Read(t.Context(), "ledger/turns/")
			return err == nil && len(rows) == 1
		})
		// Three looks of the other goroutine, in which the target is late.
		for time.Since(began) < time.Second {
			if got := toward(t, front); got != "8080" {
				t.Fatalf("its client was sent %q although the target has not accepted", got)
			}
			if state := k.rolled(t); state == api.RolloutStateDone {
				t.Fatal("the rollout is done although the target has not accepted")
			}
			<-time.After(20 * time.Millisecond)
		}
		target.let()
		v1.Wait(t, "both ports", func() bool { return inbound(t, v1) == "8080 raw_buffer, 9090 raw_buffer" })
		between := chain(t, v1, 9090)
		if !proto.Equal(before, chain(t, v1, 8080)) {
			t.Error("the chain of the old port is another while it is kept: its connections end")
		}
		front.Wait(t, "the new port", func() bool { return strings.Contains(toward(t, front), "9090") })
		if got := inbound(t, v1); got != "8080 raw_buffer, 9090 raw_buffer" {
			t.Errorf("the client has not accepted routes to the new port, and the target has %q", got)
		}
		if state := k.rolled(t); state == api.RolloutStateDone {
			t.Error("the rollout is done although the client has not accepted")
		}
		client.let()
		v1.Wait(t, "the new port alone", func() bool { return inbound(t, v1) == "9090 raw_buffer" })
		if !proto.Equal(between, chain(t, v1, 9090)) {
			t.Error("the chain of the new port is another when it is alone: its connections end")
		}
		front.Wait(t, "the old port's end", func() bool { return toward(t, front) == "9090" })
		settled(t, s)
		testenv.Eventually(t, "the rollout is done", func() bool { return k.rolled(t) == api.RolloutStateDone })
		if rows := k.Problems(v1Key); len(rows) != 0 {
			t.Errorf("problems are left: %v", rows)
		}
	})
}

// A route that leads to a port that its target is yet to get waits for it, and so do
// the other changes of its router; one that leads elsewhere again waits no more.
func TestARouteWaitsForItsTargetsPort(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, append(lone("8080"), node("v2"))...)
		k := newKept(t, s, "a", time.Now)
		front, v1 := k.named(t, "front", "f", delta), k.named(t, "v1", "v", delta)
		ready(t, front)
		ready(t, v1)
		named := func(name string, port int) change {
			c := route("color", "v1", 1)
			c.name, c.spec = name, strings.Replace(c.spec, `"weight":1`, fmt.Sprintf(`"weight":1,"port":%d`, port), 1)
			return c
		}
		done := func(name string) bool {
			out, err := k.reader.Rollout(t.Context(), api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "color", Name: name})
			adstest.Must(t, err)
			return out.State == api.RolloutStateDone
		}
		target := shut(t, v1, adstest.LDS)
		write(t, s, listening("v1", "8080 9090"))
		write(t, s, named("other", 9090))
		k.reach(t, write(t, s, change{kind: api.KindRoute, parent: "color", name: "all"}))
		for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
			if got := routed(t, front); got != "v1_http_8080" {
				t.Fatalf("the client's routes lead to %q, where the target takes nothing yet", got)
			}
			if done("other") {
				t.Fatal("the rollout of the route is done")
			}
		}
		k.reach(t, write(t, s, route("color", "v2", 1), change{kind: api.KindRoute, parent: "color", name: "other"}))
		front.Wait(t, "the way around the target", func() bool {
			return routed(t, front) == "v2_http_8080"
		})
		k.reach(t, write(t, s, named("all", 9090)))
		if got := routed(t, front); got != "v2_http_8080" {
			t.Errorf("the client's routes lead to %q, where the target takes nothing yet", got)
		}
		target.let()
		front.Wait(t, "the new port", func() bool {
			return routed(t, front) == "v1_http_9090"
		})
		settled(t, s)
		testenv.Eventually(t, "the rollout of the route is done", func() bool { return done("all") })
	})
}

// Who is too late is waited for no longer than that, and named until it follows or
// leaves.
func TestNobodyIsWaitedForForEver(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080")...)
	now := newHand()
	k := newKept(t, s, "a", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) { now.rule(p, 3*time.Second) })
	front, v1, prompt := k.named(t, "front", "f", true), k.named(t, "v1", "late-one", true), k.named(t, "v1", "prompt", true)
	for _, p := range []*adstest.Proxy{front, v1, prompt} {
		ready(t, p)
	}
	target := shut(t, v1, adstest.LDS)
	write(t, s, listening("v1", "9090"))
	problem := func() string {
		for _, p := range k.Problems(v1Key) {
			if p.Reason == publish.ReasonWaiting {
				return p.Message
			}
		}
		return ""
	}
	now.until(t, "it is said for whom the clients wait", func() bool { return strings.Contains(problem(), "proxy late-one of virtualNode v1 at replica a") })
	if strings.Contains(problem(), "prompt") || !strings.Contains(problem(), "its clients go on") || toward(t, front) != "8080" {
		t.Errorf("the problem is %q; the client uses %q", problem(), toward(t, front))
	}
	if own := k.ProblemsOf(mesh.Client{Key: v1Key}); len(own) != 1 || own[0].Message != problem() {
		t.Errorf("problems of the node are %v", own)
	}
	now.turn(time.Second)
	front.Wait(t, "the new port", func() bool { return toward(t, front) == "9090" })
	testenv.Eventually(t, "the late proxy is named", func() bool { return strings.Contains(problem(), "after 3s the change went on without proxy late-one") })
	settled(t, s)
	target.let()
	testenv.Eventually(t, "the problem is gone", func() bool { return problem() == "" })
}

// The same of a client that does not leave what goes.
func TestNoClientIsWaitedForForEver(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080 9090")...)
	now := newHand()
	k := newKept(t, s, "a", time.Now, func(_ *replica, _ *ads.Config, p *publish.Config) { now.rule(p, 3*time.Second) })
	front, v1 := k.named(t, "front", "late-one", true), k.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	client := shut(t, front, adstest.CDS)
	write(t, s, listening("v1", "9090"))
	problem := func() string {
		for _, p := range k.ProblemsOf(mesh.Client{Key: v1Key}) {
			return p.Message
		}
		return ""
	}
	now.until(t, "it is said for whom the target waits", func() bool {
		return strings.Contains(problem(), "its proxies keep those of before") && strings.HasSuffix(problem(), ": proxy late-one of virtualNode front at replica a")
	})
	if got := inbound(t, v1); got != "8080 raw_buffer, 9090 raw_buffer" {
		t.Errorf("the target has %q although its client has not left 8080", got)
	}
	now.turn(time.Second)
	v1.Wait(t, "the port alone", func() bool { return inbound(t, v1) == "9090 raw_buffer" })
	settled(t, s)
	testenv.Eventually(t, "the late client is named", func() bool { return strings.Contains(problem(), "after 3s the change went on without proxy late-one") })
	client.let()
	testenv.Eventually(t, "the problem is gone", func() bool { return problem() == "" })
}

// A client that does not lead to the target any more, and has not accepted that yet,
// may still use it.
func TestAClientOnItsWayOutIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, append(lone("8080 9090"), node("v2"), node("idle"))...)
	k := newKept(t, s, "a", time.Now)
	front, v1, idle := k.named(t, "front", "f", true), k.named(t, "v1", "v", true), k.named(t, "idle", "i", true)
	for _, p := range []*adstest.Proxy{front, v1, idle} {
		ready(t, p)
	}
	client := shut(t, front, adstest.CDS)
	stuck := shut(t, idle, adstest.LDS)
	write(t, s, route("color", "v2", 1))
	write(t, s, listening("idle", "8081")) // which has nothing to do with it
	write(t, s, listening("v1", "9090"))
	for began := time.Now(); time.Since(began) < time.Second; <-time.After(20 * time.Millisecond) {
		if got := inbound(t, v1); got != "8080 raw_buffer, 9090 raw_buffer" {
			t.Fatalf("the target has %q although a client may still use 8080", got)
		}
	}
	client.let()
	v1.Wait(t, "the port alone", func() bool { return inbound(t, v1) == "9090 raw_buffer" })
	stuck.let()
	settled(t, s)
}

// A target without proxies holds nobody back, nor does a client that has left.
func TestWhoIsNotConnectedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	write(t, s, lone("8080")...)
	k := newKept(t, s, "a", time.Now)
	front := k.named(t, "front", "f", true)
	ready(t, front)
	write(t, s, listening("v1", "9090"))
	front.Wait(t, "the new port", func() bool { return toward(t, front) == "9090" })
	settled(t, s)

	v1 := k.named(t, "v1", "v", true)
	ready(t, v1)
	leaver := adstest.Open(t, k.conn, adstest.Options{Node: "mesh/m/virtualNode/front", Instance: "leaver", Delta: true})
	adstest.Must(t, leaver.Send(adstest.Request{Type: adstest.CDS}))
	_, err := leaver.Recv() // and never answers
	adstest.Must(t, err)
	testenv.Eventually(t, "the ledger knows it", func() bool {
		all, _, err := k.reader.Proxies(t.Context(), account)
		return err == nil && slices.ContainsFunc(all, func(p api.Proxy) bool { return p.Instance == "leaver" && p.State == api.ProxyStatePending })
	})
	write(t, s, listening("v1", "7070"))
	front.Wait(t, "the third port", func() bool { return strings.Contains(toward(t, front), "7070") })
	if got := inbound(t, v1); got != "7070 raw_buffer, 9090 raw_buffer" {
		t.Errorf("one of two clients has not accepted, and the target has %q", got)
	}
	leaver.Close()
	v1.Wait(t, "the third port alone", func() bool { return inbound(t, v1) == "7070 raw_buffer" })
	settled(t, s)
}
