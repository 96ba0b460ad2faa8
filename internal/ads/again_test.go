package ads

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/envoy"
)

// pauses are how long the machine waits each time with listeners that the proxy refuses
// so often.
func (l *line) pauses(times int, want string) (out []time.Duration) {
	l.t.Helper()
	for range times {
		l.nack(l.sends(want)[envoy.Listener], "cannot bind")
		l.sends()
		_, wake := l.m.next(l.now)
		out = append(out, wake.Sub(l.now))
		l.now = wake.Add(-1)
		l.sends() // not sooner
		l.now = wake
	}
	return out
}

func TestRefusedListenersAreSentAgainAfterAWhile(t *testing.T) {
	refused := func(t *testing.T, delta bool) (*line, spec) {
		s := simple()
		l := connected(t, delta, s)
		l.m.again = firstAgain
		s[envoy.Listener] = []*envoy.Resource{resource("in", "2", "a"), resource("out", "1")}
		l.aim(s)
		return l, s
	}
	both(t, func(t *testing.T, delta bool) {
		want := map[bool]string{true: "lds in", false: "lds in out"}[delta]
		t.Run("twice as long each time, up to ten minutes", func(t *testing.T) {
			l, _ := refused(t, delta)
			if diff := cmp.Diff([]time.Duration{
				30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute,
			}, l.pauses(7, want)); diff != "" {
				t.Error(diff)
			}
			l.ack(l.sends(want)[envoy.Listener])
			l.sends()
			if !l.m.reached(envoy.Listener) || l.m.of[envoy.Listener].refusal != nil {
				t.Error("an acceptance does not end it")
			}
			if _, wake := l.m.next(l.now); !wake.IsZero() {
				t.Errorf("something is to be done at %v", wake)
			}
		})
		t.Run("a change begins anew", func(t *testing.T) {
			l, s := refused(t, delta)
			l.pauses(3, want)
			s[envoy.Listener] = []*envoy.Resource{resource("in", "3", "a"), resource("out", "1")}
			l.aim(s)
			if diff := cmp.Diff([]time.Duration{30 * time.Second, time.Minute}, l.pauses(2, want)); diff != "" {
				t.Error(diff)
			}
		})
		t.Run("what it said first stands, and it stays refused", func(t *testing.T) {
			l, _ := refused(t, delta)
			l.pauses(2, want)
			at := l.m.of[envoy.Listener].refusal.At.Time
			if !at.Equal(start) {
				t.Errorf("the refusal is of %v, want the first one's", at)
			}
			f := l.sends(want)[envoy.Listener]
			if len(l.m.of[envoy.Listener].refused) == 0 {
				t.Error("while it is tried again it does not count as refused")
			}
			answer := l.answer(f)
			answer.refused, answer.reason = true, "cannot bind"
			if !l.m.repeated(answer) {
				t.Error("the same refusal counts as another")
			}
			if answer.reason = "no such file"; l.m.repeated(answer) {
				t.Error("another refusal counts as the same")
			}
			l.receive(answer)
			if got := l.m.of[envoy.Listener].refusal; got.Message != "no such file" || !got.At.Time.Equal(l.now) {
				t.Errorf("the refusal is %+v", got)
			}
		})
		t.Run("clusters that were refused are waited for", func(t *testing.T) {
			l, s := refused(t, delta)
			l.nack(l.sends(want)[envoy.Listener], "cannot bind")
			s[envoy.Cluster] = []*envoy.Resource{resource("a", "1"), resource("b", "bad")}
			l.m.goal = goalWith(s) // of listeners nothing is another, so nothing was forgiven
			l.nack(l.sends(map[bool]string{true: "cds b", false: "cds a b"}[delta], "eds b")[envoy.Cluster], "no")
			l.now = l.now.Add(lastAgain)
			l.sends()
		})
	})
}
