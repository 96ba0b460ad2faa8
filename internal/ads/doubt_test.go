package ads

import (
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// refusing is a goal whose listeners the proxy refuses: one differs, one is new.
func refusing() spec {
	s := simple()
	s[envoy.Listener] = []*envoy.Resource{resource("in", "bad", "b"), resource("out", "1"), resource("new", "1", "b")}
	return s
}

// Envoy may have applied a part of what it refused, also when it comes back
// after the change was taken back.
func TestAProxyThatRefusedIsSentAgainWhenItComesBack(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		l := connected(t, delta, simple())
		hash := l.m.goal.lists[envoy.Listener].Hash
		l.aim(refusing())
		f := l.sends(map[bool]string{true: "lds in new", false: "lds in new out"}[delta])[envoy.Listener]
		l.nack(f, "no")
		left := l.m.doubtful()

		back := newLine(t, delta, simple())
		back.m.doubts = left
		back.receive(request{typ: envoy.Cluster, version: back.m.goal.lists[envoy.Cluster].Hash, versions: map[string]string{"a": "1", "b": "1"}})
		if again := back.m.doubtful(); len(again[envoy.Listener]) == 0 {
			t.Error("a stream that ended before its listeners were asked for forgot")
		}
		back.sends()
		back.receive(request{typ: envoy.Listener, version: hash, versions: map[string]string{"in": "1", "out": "1"}})
		f = back.sends(map[bool]string{true: "lds in -new", false: "lds in out"}[delta])[envoy.Listener]
		if back.m.reached(envoy.Listener) {
			t.Error("what is in doubt counts as the goal")
		}
		back.ack(f)
		back.sends()
		if again := back.m.doubtful(); !back.m.reached(envoy.Listener) || len(again[envoy.Listener]) > 0 {
			t.Errorf("after it accepted: in doubt are %v", again)
		}

		fresh := newLine(t, delta, simple())
		fresh.m.doubts = left
		fresh.ask(envoy.Cluster)
		fresh.settle()
		fresh.ask(envoy.Listener)
		fresh.sends("lds in out")
	})
}

func TestDoubtsAreRememberedByInstance(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		now := start
		r := newRig(t, func(c *Config) { c.Now = func() time.Time { return now } })
		s := r.open(t, "a", delta)
		responses := feed(t, s)
		r.give("a", refusing())
		refused := s.Expect(t, map[bool]string{true: "lds in new", false: "lds in new out"}[delta])
		adstest.Must(t, s.Send(s.Answer(refused, "no")))
		testenv.Eventually(t, "it is refused", func() bool { return r.States()["REFUSED"] == 1 })
		s.Close()
		testenv.Eventually(t, "it left", func() bool { return r.States()["REFUSED"] == 0 })
		r.give("a", simple())

		back := func(instance string) *adstest.Stream {
			x := adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: nodeID("a"), Instance: instance, Delta: delta})
			adstest.Must(t, x.Send(adstest.Request{Type: adstest.CDS, Version: responses[0].Version, Versions: map[string]string{"a": "1", "b": "1"}}))
			adstest.Must(t, x.Send(adstest.Request{Type: adstest.LDS, Version: responses[2].Version, Versions: map[string]string{"in": "1", "out": "1"}}))
			return x
		}
		other := back("another")
		x := back("a-1")
		x.Expect(t, map[bool]string{true: "lds in -new", false: "lds in out"}[delta])
		other.Close()
		x.Close()
		testenv.Eventually(t, "they left", func() bool { _, connected := r.Row(client("a")); return !connected })
		r.Server.mu.Lock()
		defer r.Server.mu.Unlock()
		if len(r.doubts) != 1 {
			t.Errorf("%d proxies are in doubt", len(r.doubts))
		}
		now = now.Add(doubtsFor + time.Second)
		if got := r.recall(&proxy{client: client("a"), instance: "a-1"}); len(got[envoy.Listener]) > 0 {
			t.Error("doubts are remembered for too long")
		}
	})
}
