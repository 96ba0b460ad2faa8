package rest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/rest"
)

// changed is a plan's body of one change.
func changed(kind, input string, goes bool) string {
	text, _ := json.Marshal(map[string]any{"changes": []any{map[string]any{"kind": kind, "input": input, "delete": goes}}})
	return string(text)
}

// first is what a plan says of its first resource.
func first(t *testing.T, a answer) map[string]any {
	t.Helper()
	return a.ok(t)["resources"].([]any)[0].(map[string]any)
}

func TestPlan(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *rest.Config) { c.Quotas = mesh.Quotas{VirtualNodes: 2} })
	s.mesh(t)
	const path = "/evermesh/v1/plan"
	s.do(t, "PUT", "/v20190125/meshes/apps/virtualNodes", `{"virtualNodeName":"n","spec":{}}`).ok(t)
	head, err := s.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, kind, input string
		goes              bool
		action, text      string
	}{
		{"a new resource", "virtualNode", `{"meshName":"apps","virtualNodeName":"m","spec":{}}`, false, "CREATE", ""},
		{"one that is as it is", "virtualNode", `{"meshName":"apps","virtualNodeName":"n","spec":{}}`, false, "NONE", ""},
		{"one that changes", "virtualNode", `{"meshName":"apps","virtualNodeName":"n","spec":{"backends":[]}}`, false, "UPDATE", "backends: []"},
		{"one that goes", "virtualNode", `{"meshName":"apps","virtualNodeName":"n"}`, true, "DELETE", ""},
		{"one that is gone", "virtualNode", `{"meshName":"apps","virtualNodeName":"none"}`, true, "NONE", ""},
		{"a rule that is broken", "route", `{"meshName":"apps","virtualRouterName":"r","routeName":"a","spec":{}}`, false, "REFUSED", "VirtualRouter with name r is not present"},
		{"a mesh that is not empty", "mesh", `{"meshName":"apps"}`, true, "REFUSED", ""},
		{"a model that is broken", "virtualNode", `{"meshName":"apps","virtualNodeName":"n","spec":{"listeners":7}}`, false, "REFUSED", "spec.listeners"},
		{"a name that cannot be", "virtualNode", `{"meshName":"apps","virtualNodeName":"a/b","spec":{}}`, false, "REFUSED", "holds a slash"},
		{"tags that cannot be", "virtualNode", `{"meshName":"apps","virtualNodeName":"t","spec":{},"tags":[{"key":"aws:x","value":""}]}`, false, "REFUSED", "reserved"},
		{"no JSON", "mesh", `{`, false, "REFUSED", "ends too early"},
		{"no object", "mesh", `[]`, false, "REFUSED", "not a JSON object"},
		{"two objects", "mesh", `{"meshName":"a"}{}`, false, "REFUSED", "follows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := first(t, s.do(t, "POST", path, changed(c.kind, c.input, c.goes)))
			if got["action"] != c.action || !strings.Contains(fmt.Sprint(got), c.text) {
				t.Errorf("got %v, want %s and %q", got, c.action, c.text)
			}
		})
	}
	t.Run("over a quota", func(t *testing.T) {
		body, _ := json.Marshal(map[string]any{"changes": []any{
			map[string]any{"kind": "virtualNode", "input": `{"meshName":"apps","virtualNodeName":"x","spec":{}}`},
			map[string]any{"kind": "virtualNode", "input": `{"meshName":"apps","virtualNodeName":"y","spec":{}}`},
			map[string]any{"kind": "virtualNode", "input": `{"meshName":"apps","virtualNodeName":"x","spec":{}}`},
		}})
		got := map[string]any{}
		for _, r := range s.do(t, "POST", path, string(body)).ok(t)["resources"].([]any) {
			got[fmt.Sprint(at(r, "change"))] = fmt.Sprint(at(r, "action"), " ", at(r, "code"))
		}
		if got["0"] != "CREATE <nil>" || got["1"] != "REFUSED LimitExceededException" || got["2"] != "REFUSED BadRequestException" {
			t.Errorf("got %v", got)
		}
	})
	t.Run("of another account's mesh", func(t *testing.T) {
		input := `{"meshName":"apps","meshOwner":"` + accountA + `","virtualNodeName":"n","spec":{}}`
		s.as(t, accountB, "POST", path, changed("virtualNode", input, false)).
			refused(t, 403, "ForbiddenException", "User: arn:aws:iam::222222222222:root is not authorized to perform: evermesh:Plan on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps/virtualNode/n")
	})
	for name, body := range map[string]string{"no body": "", "no changes": `{"changes":[]}`, "no such kind": changed("node", "{}", false), "not a list": `{"changes":{}}`} {
		t.Run(name, func(t *testing.T) {
			if got := s.do(t, "POST", path, body); got.status != http.StatusBadRequest {
				t.Errorf("status %d, %s", got.status, got.body)
			}
		})
	}
	t.Run("a body that is too large", func(t *testing.T) {
		if got := s.do(t, "POST", path, changed("mesh", strings.Repeat(" ", rest.MaxBody), false)); got.status != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d, %s", got.status, got.body)
		}
	})
	t.Run("and nothing is written", func(t *testing.T) {
		if now, err := s.store.Head(t.Context()); err != nil || now != head {
			t.Errorf("the store is at %d, was at %d; %v", now, head, err)
		}
	})
}

// One plan at a time is worked out; who waits and leaves is let go.
func TestPlansTakeTurns(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	running, most := 0, 0
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	s := serve(t, func(c *rest.Config) {
		read := c.Snapshot
		c.Snapshot = func(ctx context.Context) (*mesh.Snapshot, error) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			entered <- struct{}{}
			<-leave
			mu.Lock()
			running--
			mu.Unlock()
			return read(ctx)
		}
	})
	body := changed("mesh", `{"meshName":"x"}`, false)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() { s.do(t, "POST", "/evermesh/v1/plan", body).ok(t) })
	}
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/evermesh/v1/plan", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(headerAccount, accountA)
	left := make(chan error, 1)
	go func() {
		resp, err := s.Client().Do(r)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	cancel()
	if err := <-left; err == nil {
		t.Error("who left was answered")
	}
	close(leave)
	all.Wait()
	if most != 1 {
		t.Errorf("%d plans were worked out at once", most)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	const path = "/evermesh/v1/explain?resourceArn=arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"
	s.do(t, "PUT", "/v20190125/meshes/apps/virtualNodes", `{"virtualNodeName":"n","spec":{}}`).ok(t)
	got := s.do(t, "GET", path+"/virtualNode/n", "").ok(t)
	if fmt.Sprint(at(got, "usersTotal"), " ", at(got, "resourceVersion")) != "1 1" {
		t.Errorf("got %v", got)
	}
	t.Run("API-006 the status that clients wait for stays ACTIVE, whatever became of it", func(t *testing.T) {
		l.set(api.Rollout{State: api.RolloutStateRefused}, nil)
		node := s.do(t, "GET", "/v20190125/meshes/apps/virtualNodes/n", "").ok(t)
		if at(node, "status", "status") != "ACTIVE" {
			t.Errorf("got %v", node)
		}
	})
	s.do(t, "GET", path+"/virtualNode/none", "").refused(t, 404, "NotFoundException", "VirtualNode with name none is not present under mesh apps for account 111111111111")
	s.as(t, accountB, "GET", path, "").refused(t, 403, "ForbiddenException", "User: arn:aws:iam::222222222222:root is not authorized to perform: evermesh:Explain on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps")
	l.set(api.Rollout{}, api.Errorf(api.CodeServiceUnavailable, "The store does not answer."))
	s.do(t, "GET", path+"&watch=true", "").refused(t, 503, "ServiceUnavailableException", "The store does not answer.")
}

// A resource of many nodes and proxies names the first of them and counts all.
func TestExplainIsBounded(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone, ProxiesAffected: 1000, ProxiesAccepted: 1000}}
	for i := range 1000 {
		l.proxies = append(l.proxies, api.Proxy{Instance: fmt.Sprint(i), State: api.ProxyStateCurrent, Types: []api.TypeStatus{}})
	}
	var resources []*api.Resource
	key := api.Key{Owner: accountA, Mesh: "m", Kind: api.KindMesh, Name: "m"}
	resources = append(resources, &api.Resource{Key: key, Owner: accountA, Spec: &api.MeshSpec{}})
	for i := range 500 {
		resources = append(resources, &api.Resource{Key: key.In(api.KindVirtualNode, "", fmt.Sprint(i)), Owner: accountA, Spec: &api.VirtualNodeSpec{}})
	}
	s := serve(t, func(c *rest.Config) {
		c.Ledger = l
		c.Snapshot = func(context.Context) (*mesh.Snapshot, error) { return mesh.NewSnapshot(7, resources), nil }
	})
	got := s.do(t, "GET", "/evermesh/v1/explain?resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/m", "").ok(t)
	if n := len(got["users"].([]any)); n != 200 || fmt.Sprint(got["usersTotal"]) != "500" {
		t.Errorf("%d users named, %v counted", n, got["usersTotal"])
	}
	if n := len(got["proxies"].([]any)); n != 200 || fmt.Sprint(got["proxiesAffected"]) != "1000" {
		t.Errorf("%d proxies named, %v counted", n, got["proxiesAffected"])
	}
}
