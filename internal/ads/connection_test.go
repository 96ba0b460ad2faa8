package ads

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// told are connections as lines; streams are numbered as they come.
type told struct {
	happened chan Connection
	streams  map[string]int
}

func listen(c *Config) *told {
	w := &told{make(chan Connection, 100), map[string]int{}}
	c.Connected = func(c Connection) { w.happened <- c }
	return w
}

func (w *told) next(t *testing.T) string {
	t.Helper()
	select {
	case c := <-w.happened:
		if w.streams[c.ID] == 0 {
			w.streams[c.ID] = len(w.streams) + 1
		}
		what := "opened"
		if !c.Open {
			what = "over"
			if c.Status != nil {
				what += " " + c.Status.Code().String() + ": " + c.Status.Message()
			}
		}
		return fmt.Sprintf("%d %s %s %s", w.streams[c.ID], c.Principal.Account, strings.TrimPrefix(c.Node, "arn:aws:appmesh:us-east-1:"), what)
	case <-time.After(adstest.Patience):
		t.Fatal("nothing is told")
		return ""
	}
}

func TestWhatHappensToStreamsIsTold(t *testing.T) {
	node := account + ":mesh/m/virtualNode/a"
	denied := "PermissionDenied: Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:" + node + "."
	expect := func(t *testing.T, w *told, want ...string) {
		t.Helper()
		var got []string
		for range want {
			got = append(got, w.next(t))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	t.Run("AUDIT-007 a stream that ends as planned", func(t *testing.T) {
		var w *told
		r := newRig(t, func(c *Config) { w, c.Lifetime = listen(c), 100*time.Millisecond })
		s := r.open(t, "a", true)
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS})) // more may not fit into it
		s.End(t)
		expect(t, w, "1 "+account+" "+node+" opened", "1 "+account+" "+node+" over")
	})
	t.Run("AUDIT-007 a stream that is drained", func(t *testing.T) {
		var w *told
		r := newRig(t, func(c *Config) { w = listen(c) })
		feed(t, r.open(t, "a", true))
		expect(t, w, "1 "+account+" "+node+" opened")
		r.Drain(t.Context(), 0)
		expect(t, w, "1 "+account+" "+node+" over")
	})
	t.Run("AUDIT-007 a stream that the proxy drops", func(t *testing.T) {
		var w *told
		r := newRig(t, func(c *Config) { w = listen(c) })
		s := r.open(t, "a", true)
		feed(t, s)
		s.Close()
		expect(t, w, "1 "+account+" "+node+" opened", "1 "+account+" "+node+" over Canceled: context canceled")
	})
	for _, c := range []struct {
		code   codes.Code
		node   string
		change func(*Config)
		want   string
	}{
		{codes.InvalidArgument, "nobody", nil, "1 " + account + " mesh/m/virtualNode/nobody over InvalidArgument: mesh/m/virtualNode/nobody does not exist: create it. Or not."},
		{codes.PermissionDenied, "a", func(c *Config) {
			c.Authorize = func(auth.Principal, From, api.Key) error { return api.Errorf(api.CodeAccessDenied, "no") }
		}, "1 " + account + " " + node + " over " + denied},
		{codes.ResourceExhausted, "a", func(c *Config) {
			c.Authorize = func(auth.Principal, From, api.Key) error { return api.Errorf(api.CodeLimitExceeded, "Too many.") }
		}, "1 " + account + " " + node + " over ResourceExhausted: Too many."},
		{codes.Unauthenticated, "a", func(c *Config) {
			c.Authenticate = func(context.Context, string, metadata.MD) (auth.Principal, error) {
				return auth.Principal{}, api.Errorf(api.CodeMissingAuthenticationToken, "Missing Authentication Token")
			}
		}, "1   over Unauthenticated: Missing Authentication Token"},
	} {
		t.Run(fmt.Sprintf("AUDIT-009 a stream that is refused with %d", c.code), func(t *testing.T) {
			var w *told
			r := newRig(t, func(config *Config) {
				w = listen(config)
				if c.change != nil {
					c.change(config)
				}
			})
			s := r.open(t, c.node, true)
			_ = s.Send(adstest.Request{Type: adstest.CDS}) // the stream may have ended already
			if code, _ := s.End(t); code != c.code {
				t.Errorf("ended with %v", code)
			}
			expect(t, w, c.want)
		})
	}
	t.Run("a stream whose access ends", func(t *testing.T) {
		var w *told
		r := newRig(t, func(c *Config) {
			w = listen(c)
			first := true
			c.Authorize = func(auth.Principal, From, api.Key) error {
				if first {
					first = false
					return nil
				}
				return api.Errorf(api.CodeAccessDenied, "no")
			}
		})
		feed(t, r.open(t, "a", true))
		r.Recheck()
		expect(t, w, "1 "+account+" "+node+" opened", "1 "+account+" "+node+" over "+denied)
	})
}
