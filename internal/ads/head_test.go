package ads

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
)

// A proxy that comes back with all that it is to have is sent no message: it learns by the head of its stream, at once,
// that it is served.
func TestAProxyThatHasAllIsToldThatItIsServed(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		s := r.open(t, "a", delta)
		ask := adstest.Request{Type: adstest.CDS, Version: goalWith(simple()).lists[envoy.Cluster].Hash}
		if delta {
			ask = adstest.Request{Type: adstest.CDS, Versions: map[string]string{"a": "1", "b": "1"}}
		}
		adstest.Must(t, s.Send(ask))
		if got := s.Head(t).Get("evermesh-stream"); len(got) != 1 || got[0] != "served" {
			t.Errorf("the head says %q", got)
		}
		// And the stream goes on as any other.
		newer := simple()
		newer[envoy.Cluster] = append(newer[envoy.Cluster], resource("c", "1"))
		r.give("a", newer)
		want := "cds a b c"
		if delta {
			want = "cds c"
		}
		s.Expect(t, want)
	})
}

// A proxy that is sent something is told so with the first message.
func TestTheFirstMessageSaysThatAProxyIsServed(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newRig(t, nil).open(t, "a", delta)
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		if got := s.Head(t).Get("evermesh-stream"); len(got) != 1 || got[0] != "served" {
			t.Errorf("the head says %q", got)
		}
		s.Expect(t, "cds a b")
	})
}

// Who is refused is told so by the end of its stream alone.
func TestARefusedProxyIsNotToldThatItIsServed(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, func(c *Config) {
			c.Authorize = func(auth.Principal, From, api.Key) error { return api.Errorf(api.CodeAccessDenied, "no") }
		})
		s := r.open(t, "a", delta)
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		if got := s.Head(t).Get("evermesh-stream"); len(got) > 0 {
			t.Errorf("the head says %q", got)
		}
		if code, _ := s.End(t); code != codes.PermissionDenied {
			t.Errorf("ended with %v", code)
		}
	})
}
