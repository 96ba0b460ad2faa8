package rest_test

import (
	"bufio"
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
)

// times keeps the last time that policies were asked with.
type times struct{ last atomic.Pointer[string] }

// Authorize satisfies auth.Authorizer.
func (a *times) Authorize(_ context.Context, q auth.Question) error {
	a.last.Store(&q.Keys["aws:currenttime"][0])
	return nil
}

// A watch ends when its caller's key is gone or its session over, and policies are
// asked with the time that it is, not with that of its start.
func TestWatchEndsWithItsCredentials_IAM_014(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/evermesh/v1/rollout", "/evermesh/v1/explain"} {
		for _, c := range []struct {
			name    string
			session bool
		}{{"the key is taken away", false}, {"the session is over", true}} {
			t.Run(path+" "+c.name, func(t *testing.T) {
				t.Parallel()
				l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateWaiting}}
				var gone atomic.Bool
				var until atomic.Pointer[time.Time]
				asked := &times{}
				s := serve(t, func(config *rest.Config) {
					config.Ledger, config.Authorizer = l, asked
					now := config.Now
					config.Now = func() time.Time { // it stands still until the session is to be over
						if at := until.Load(); at != nil {
							return *at
						}
						return now()
					}
					config.Verify = func(context.Context, auth.Request) (auth.Principal, error) {
						p := auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root", AccessKeyID: "ASIA1"}
						if c.session {
							p.Session = &auth.Session{Expires: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
						}
						return p, nil
					}
					config.Holds = func(auth.Principal) error {
						if gone.Load() {
							return api.Errorf(api.CodeUnrecognizedClient, "it is gone")
						}
						return nil
					}
				})
				s.mesh(t)
				r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path+"?watch=true&resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := s.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				watch := bufio.NewScanner(resp.Body)
				if !watch.Scan() {
					t.Fatalf("the watch ended: %v", watch.Err())
				}
				before := *asked.last.Load()
				l.set(api.Rollout{State: api.RolloutStateWaiting, ProxiesAffected: 2}, nil)
				if !watch.Scan() {
					t.Fatalf("the watch ended while its credentials held: %v", watch.Err())
				}
				if now := *asked.last.Load(); now <= before {
					t.Errorf("policies are asked at %s, after %s", now, before)
				}
				if c.session {
					until.Store(new(time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)))
				} else {
					gone.Store(true)
				}
				l.set(api.Rollout{State: api.RolloutStateWaiting, ProxiesAffected: 3}, nil)
				var more []string
				for watch.Scan() { // until it ends
					more = append(more, watch.Text())
				}
				if slices.ContainsFunc(more, func(line string) bool { return decode(t, []byte(line))["proxiesAffected"] == 3.0 }) {
					t.Errorf("more was told: %s", more)
				}
			})
		}
	}
}
