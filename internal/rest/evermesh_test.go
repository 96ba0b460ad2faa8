package rest_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/rest"
)

// ledger is a ledger whose content a test sets.
type ledger struct {
	mu      sync.Mutex
	proxies []api.Proxy
	rollout api.Rollout
	unread  error // of Rollout
	changed chan struct{}
}

func (l *ledger) Proxies(_ context.Context, account string) ([]api.Proxy, []api.Replica, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.proxies), func(p api.Proxy) bool {
		a, err := api.ParseARN(p.ResourceARN)
		return err != nil || a.Account != account
	}), nil, nil
}

func (l *ledger) Rollout(context.Context, api.Key) (api.Rollout, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rollout, l.unread
}

func (l *ledger) Reached(context.Context, api.Key) (api.Rollout, []api.Proxy, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rollout, append([]api.Proxy{}, l.proxies...), l.unread
}

func (l *ledger) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *ledger) set(r api.Rollout, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollout, l.unread = r, err
	close(l.changed)
	l.changed = make(chan struct{})
}

func TestProxies(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{})}
	for i := range 5 {
		l.proxies = append(l.proxies, api.Proxy{ResourceARN: fmt.Sprintf("arn:aws:appmesh:us-east-1:%s:mesh/m%d/virtualNode/n", accountA, i%2), Instance: fmt.Sprint(9 - i)})
	}
	l.proxies = append(l.proxies, api.Proxy{ResourceARN: "arn:aws:appmesh:us-east-1:" + accountB + ":mesh/m0/virtualNode/n", Instance: "b"})
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	count := func(t *testing.T, account, query string) int {
		t.Helper()
		return len(s.as(t, account, "GET", "/evermesh/v1/proxies"+query, "").ok(t)["proxies"].([]any))
	}
	for _, c := range []struct {
		name, account, query string
		want                 int
	}{
		{"of the caller's account", accountA, "", 5},
		{"of another account's", accountB, "", 1},
		{"of one mesh", accountA, "?meshName=m1", 2},
		{"of one node", accountA, "?resourceArn=arn:aws:appmesh:us-east-1:" + accountA + ":mesh/m0/virtualNode/n", 3},
		{"of nobody", accountA, "?meshName=none", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := count(t, c.account, c.query); got != c.want {
				t.Errorf("%d proxies, want %d", got, c.want)
			}
		})
	}
	t.Run("in pages", func(t *testing.T) {
		t.Parallel()
		first := s.do(t, "GET", "/evermesh/v1/proxies?limit=3", "").ok(t)
		second := s.do(t, "GET", "/evermesh/v1/proxies?limit=3&nextToken="+first["nextToken"].(string), "").ok(t)
		seen := map[string]bool{}
		for _, p := range append(first["proxies"].([]any), second["proxies"].([]any)...) {
			seen[fmt.Sprint(at(p, "resourceArn"), at(p, "instance"))] = true
		}
		if len(seen) != 5 || second["nextToken"] != nil {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("a token of nobody", func(t *testing.T) {
		t.Parallel()
		token := s.do(t, "GET", "/evermesh/v1/proxies?limit=3", "").ok(t)["nextToken"].(string)
		for name, refused := range map[string]answer{
			"made up":           s.do(t, "GET", "/evermesh/v1/proxies?nextToken=enp6", ""),
			"another account's": s.as(t, accountB, "GET", "/evermesh/v1/proxies?nextToken="+token, ""),
		} {
			t.Run(name, func(t *testing.T) {
				refused.refused(t, 400, "BadRequestException", "The nextToken is not one that this list gave out: repeat the list without it.")
			})
		}
	})
}

func TestRollout(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateWaiting}}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	path := "/evermesh/v1/rollout?resourceArn=arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"
	if got := s.do(t, "GET", path, "").ok(t); got["state"] != "WAITING" {
		t.Errorf("got %v", got)
	}
	s.do(t, "GET", path+"/virtualNode/n", "").refused(t, 404, "NotFoundException", "VirtualNode with name n is not present under mesh apps for account 111111111111")
	s.as(t, accountB, "GET", path, "").refused(t, 403, "ForbiddenException", "User: arn:aws:iam::222222222222:root is not authorized to perform: evermesh:DescribeRollout on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps")

	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path+"&watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(headerAccount, accountA)
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("content type %s", ct)
	}
	watch := bufio.NewScanner(resp.Body)
	line := func() map[string]any {
		t.Helper()
		if !watch.Scan() {
			t.Fatalf("the watch ended: %v", watch.Err())
		}
		return decode(t, watch.Bytes())
	}
	if got := line(); got["state"] != "WAITING" {
		t.Errorf("the first line is %v", got)
	}
	l.set(api.Rollout{State: api.RolloutStateWaiting, ProxiesAccepted: 1}, nil)
	if got := line(); fmt.Sprint(got["proxiesAccepted"]) != "1" {
		t.Errorf("a change is %v", got)
	}
	l.set(api.Rollout{State: api.RolloutStateDone}, nil)
	if got := line(); got["state"] != "DONE" {
		t.Errorf("the last line is %v", got)
	}
	if watch.Scan() {
		t.Errorf("a line after the end: %s", watch.Bytes())
	}
}

// A ledger that cannot be read is told with a status while none is sent; later
// the watch ends.
func TestRolloutThatCannotBeRead(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{})}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	path := "/evermesh/v1/rollout?resourceArn=arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"
	away := api.Errorf(api.CodeServiceUnavailable, "The store does not answer.")
	for _, query := range []string{"", "&watch=true"} {
		t.Run("API-033 at once"+query, func(t *testing.T) {
			l.set(api.Rollout{}, away)
			s.do(t, "GET", path+query, "").refused(t, 503, "ServiceUnavailableException", "The store does not answer.")
		})
	}
	t.Run("later", func(t *testing.T) {
		l.set(api.Rollout{State: api.RolloutStateWaiting}, nil)
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+path+"&watch=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(headerAccount, accountA)
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		watch := bufio.NewScanner(resp.Body)
		if !watch.Scan() || decode(t, watch.Bytes())["state"] != "WAITING" {
			t.Fatalf("got %s, %v", watch.Bytes(), watch.Err())
		}
		l.set(api.Rollout{}, away)
		if watch.Scan() {
			t.Errorf("a line from an unread ledger: %s", watch.Bytes())
		}
	})
}

func TestWatchEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateWaiting}}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/evermesh/v1/rollout?watch=true&resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(headerAccount, accountA)
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	s.CloseClientConnections()
	s.Close() // waits for the handler
}
