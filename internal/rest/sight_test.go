package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/service"
)

// Plans and explanations tell nobody more than DescribeVirtualNode and its like would.
func TestPlanAndExplainTellWhatTheCallerMaySee(t *testing.T) {
	t.Parallel()
	arn := func(name string) string {
		return "arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps/" + name
	}
	proxy := func(node string) api.Proxy { return api.Proxy{ResourceARN: arn("virtualNode/" + node)} }
	l := &ledger{changed: make(chan struct{}), proxies: []api.Proxy{proxy("mine"), proxy("other")}}
	s := judged(t, func(c *rest.Config) { c.Ledger = l }, map[string]string{
		"planner": allow(`"evermesh:*"`, `"*"`) + "," + allow(`"appmesh:Describe*"`, `"MESH","MESH/virtualNode/mine","MESH/virtualService/*"`),
		"blind":   allow(`"appmesh:*"`, `"*"`),
	})
	s.mesh(t)
	for _, node := range []string{"mine", "other"} {
		s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName":"`+node+`","spec":{"backends":[{"virtualService":{"virtualServiceName":"b.local"}}]}}`).ok(t)
	}
	s.do(t, "PUT", meshes+"/apps/virtualServices", `{"virtualServiceName":"b.local","spec":{}}`).ok(t)
	const plan, explain = "/evermesh/v1/plan", "/evermesh/v1/explain?resourceArn="
	change := func(node string) string {
		return changed("virtualNode", `{"meshName":"apps","virtualNodeName":"`+node+`","spec":{}}`, false)
	}
	t.Run("its own node", func(t *testing.T) {
		if got := first(t, s.by(t, "planner", "POST", plan, change("mine"))); got["action"] != "UPDATE" || got["difference"] == nil {
			t.Errorf("got %v", got)
		}
		s.by(t, "planner", "GET", explain+arn("virtualNode/mine"), "").ok(t)
	})
	t.Run("another node", func(t *testing.T) {
		s.by(t, "planner", "POST", plan, change("other")).denied(t, "appmesh:DescribeVirtualNode", arn("virtualNode/other"))
		s.by(t, "planner", "GET", explain+arn("virtualNode/other"), "").denied(t, "appmesh:DescribeVirtualNode", arn("virtualNode/other"))
	})
	t.Run("a node that does not exist", func(t *testing.T) {
		s.by(t, "planner", "GET", explain+arn("virtualNode/none"), "").denied(t, "appmesh:DescribeVirtualNode", arn("virtualNode/none"))
	})
	t.Run("what both use", func(t *testing.T) {
		got := s.by(t, "planner", "GET", explain+arn("virtualService/b.local"), "").ok(t)
		if text := fmt.Sprint(got["users"], got["proxies"], got["usersTotal"]); strings.Contains(text, "other") || !strings.Contains(text, "virtualNode/mine") || !strings.HasSuffix(text, "2") {
			t.Errorf("got %s", text)
		}
		body := s.by(t, "planner", "POST", plan, changed("virtualService", `{"meshName":"apps","virtualServiceName":"b.local"}`, true)).ok(t)
		for _, p := range body["proxies"].([]any) {
			told := len(at(p, "configurations").([]any)) + len(at(p, "problems").([]any))
			if mine := at(p, "resourceArn") == arn("virtualNode/mine"); mine != (told > 0) {
				t.Errorf("of %v it tells %d things", at(p, "resourceArn"), told)
			}
		}
		if n := len(body["proxies"].([]any)); n != 2 {
			t.Errorf("%d proxies change", n)
		}
	})
	t.Run("who may not plan", func(t *testing.T) {
		s.by(t, "blind", "POST", plan, change("mine")).denied(t, "evermesh:Plan", arn("virtualNode/mine"))
		s.by(t, "blind", "GET", "/evermesh/v1/proxies", "").denied(t, "evermesh:ListProxies", "*")
	})
}

// A watch ends when the caller may not see any more what it watches.
func TestWatchEndsWithPermission(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateWaiting}}
	var revoked atomic.Bool
	s := judged(t, func(c *rest.Config) {
		c.Ledger = l
		j := c.Authorizer.(judge)
		before := j["watcher"]
		now, err := policy.Parse(`{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}`)
		if err != nil {
			t.Fatal(err)
		}
		c.Authorizer = switched{&revoked, judge{"watcher": before}, judge{"watcher": now}}
	}, map[string]string{"watcher": allow(`"evermesh:*","appmesh:Describe*"`, `"*"`)})
	s.mesh(t)
	for _, path := range []string{"explain", "rollout"} {
		t.Run(path, func(t *testing.T) {
			revoked.Store(false)
			r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/evermesh/v1/"+path+"?watch=true&resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set(headerUser, "watcher")
			resp, err := s.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			if !lines.Scan() || !json.Valid(lines.Bytes()) {
				t.Fatalf("status %d, first line %q", resp.StatusCode, lines.Text())
			}
			revoked.Store(true)
			for lines.Scan() { // until the stream ends
			}
			if err := lines.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client token gives the first answer to who may do it still, and to nobody else of
// the account.
func TestTokensOfOthers(t *testing.T) {
	t.Parallel()
	s := judged(t, nil, map[string]string{"maker": allow(`"appmesh:CreateMesh"`, `"*"`), "guesser": allow(`"appmesh:List*"`, `"*"`)})
	const body = `{"meshName":"apps","clientToken":"token"}`
	made := s.by(t, "maker", "PUT", meshes, body)
	made.ok(t)
	if again := s.by(t, "maker", "PUT", meshes, body); !slices.Equal(again.body, made.body) {
		t.Errorf("again %s", again.body)
	}
	s.by(t, "guesser", "PUT", meshes, body).denied(t, "appmesh:CreateMesh", "arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps")
}

// counted keeps the operations of records.
type counted struct {
	mu   sync.Mutex
	kept []string
}

// Event satisfies service.Auditor.
func (c *counted) Event(r service.Record) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, r.Operation+" "+r.Code)
	return []byte(r.ID)
}

// Append satisfies service.Auditor.
func (c *counted) Append(_ context.Context, r service.Record) error {
	c.Event(r)
	return nil
}

// A watch is one call, and recorded before its first line; what nobody is known to have
// sent is not recorded, and a repeat is a call of its own.
func TestWatchesAreRecordedOnce(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	kept := &counted{}
	s := serve(t, func(c *rest.Config) { c.Ledger, c.Audit = l, kept })
	s.do(t, "PUT", meshes, `{"meshName":"apps","clientToken":"t"}`).ok(t)
	s.do(t, "PUT", meshes, `{"meshName":"apps","clientToken":"t"}`).ok(t)
	s.do(t, "GET", "/evermesh/v1/rollout?watch=true&resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps", "").ok(t)
	s.do(t, "GET", "/v20190125/nothing", "")
	s.do(t, "GET", meshes+"?limit=0", "")
	want := []string{"CreateMesh ", "CreateMesh ", "DescribeRollout ", "ListMeshes BadRequestException"}
	if diff := cmp.Diff(want, kept.kept); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
