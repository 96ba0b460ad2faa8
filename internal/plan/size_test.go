package plan_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

const account = "111122223333"

// made is a resource of the mesh m.
func made(t testing.TB, kind api.Kind, parent, name, document string) *api.Resource {
	t.Helper()
	spec, err := api.DecodeSpec(kind, []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	key := api.Key{Owner: account, Mesh: "m", Kind: kind, Parent: parent, Name: name}
	return &api.Resource{Key: key, Version: 1, Owner: account, Document: json.RawMessage(document), Spec: spec}
}

// large is a mesh of n nodes, each of which calls the 20 services that follow it
// in a ring; each service has a router with a route to two nodes.
func large(t testing.TB, n int) *mesh.Snapshot {
	t.Helper()
	resources := []*api.Resource{made(t, api.KindMesh, "", "m", `{}`)}
	for i := range n {
		name := fmt.Sprint("n", i)
		backends := make([]any, 20)
		for j := range backends {
			backends[j] = map[string]any{"virtualService": map[string]any{"virtualServiceName": fmt.Sprintf("s%d.local", (i+j)%n)}}
		}
		spec, err := json.Marshal(map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": name + ".local"}}, "backends": backends,
		})
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, made(t, api.KindVirtualNode, "", name, string(spec)),
			made(t, api.KindVirtualRouter, "", name, `{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}]}`),
			made(t, api.KindRoute, name, "all", route(i, n, 1)),
			made(t, api.KindVirtualService, "", fmt.Sprintf("s%d.local", i), fmt.Sprintf(`{"provider":{"virtualRouter":{"virtualRouterName":%q}}}`, name)))
	}
	return mesh.NewSnapshot(1, resources)
}

func route(i, n, weight int) string {
	return fmt.Sprintf(`{"httpRoute":{"match":{"prefix":"/"},"action":{"weightedTargets":[{"virtualNode":"n%d","weight":%d},{"virtualNode":"n%d","weight":1}]}}}`, i, weight, (i+1)%n)
}

func BenchmarkUse(b *testing.B) {
	s := large(b, 3000)
	key := made(b, api.KindRoute, "n7", "all", route(7, 3000, 1)).Key
	for b.Loop() {
		if use := plan.UseOf(s, key); len(use.Clients) != 20 {
			b.Fatalf("%d clients", len(use.Clients))
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	s := large(b, 3000)
	change := made(b, api.KindRoute, "n7", "all", route(7, 3000, 9))
	for b.Loop() {
		r, err := plan.On(b.Context(), s, mesh.Quotas{}, []plan.Change{{Key: change.Key, Now: change}})
		if err != nil || len(r.Proxies) != 20 {
			b.Fatalf("%d proxies, %v", len(r.Proxies), err)
		}
	}
}

func BenchmarkPlanForAll(b *testing.B) {
	s := large(b, 1000)
	change := made(b, api.KindMesh, "", "m", `{"egressFilter":{"type":"ALLOW_ALL"}}`)
	for b.Loop() {
		r, err := plan.On(b.Context(), s, mesh.Quotas{}, []plan.Change{{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindMesh, Name: "m"}, Now: change}})
		if err != nil || len(r.Proxies) != 1000 {
			b.Fatalf("%d proxies, %v", len(r.Proxies), err)
		}
	}
}

// A change that concerns everyone names every proxy, and writes out only so many
// differences.
func TestAPlanForAllIsBounded(t *testing.T) {
	t.Parallel()
	s := large(t, 120)
	change := made(t, api.KindMesh, "", "m", `{"egressFilter":{"type":"ALLOW_ALL"}}`)
	r, err := plan.On(t.Context(), s, mesh.Quotas{}, []plan.Change{{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindMesh, Name: "m"}, Now: change}})
	if err != nil {
		t.Fatal(err)
	}
	written, named := 0, 0
	for _, p := range r.Proxies {
		for _, c := range p.Configurations {
			if named++; c.Difference != "" {
				written++
			}
		}
	}
	if len(r.Proxies) != 120 || named < 120 || written == 0 || written == named || r.Complete {
		t.Errorf("%d proxies, %d configurations, %d written out, complete %v", len(r.Proxies), named, written, r.Complete)
	}
	t.Logf("%d configurations, %d written out", named, written)
}

// Whoever leaves ends the work.
func TestAPlanEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	change := made(t, api.KindMesh, "", "m", `{"egressFilter":{"type":"ALLOW_ALL"}}`)
	if _, err := plan.On(ctx, large(t, 30), mesh.Quotas{}, []plan.Change{{Key: change.Key, Now: change}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// leaving is a context that ends when it was looked at so many times.
type leaving struct {
	context.Context
	looks int
}

func (l *leaving) Err() error {
	if l.looks--; l.looks < 0 {
		return context.Canceled
	}
	return nil
}

// Whoever leaves ends the work also while the changes are checked, of however many
// resources, before any proxy is compared.
func TestAPlanEndsWithItsCallerWhileItChecks(t *testing.T) {
	t.Parallel()
	var changes []plan.Change
	for i := range 100 {
		node := made(t, api.KindVirtualNode, "", fmt.Sprint("n", i), `{}`)
		changes = append(changes, plan.Change{Key: node.Key, Now: node})
	}
	removals := make([]plan.Change, len(changes))
	for i, c := range changes {
		removals[i].Key = c.Key
	}
	empty := mesh.NewSnapshot(1, nil) // every node is refused for want of its mesh
	for name, todo := range map[string][]plan.Change{"writes": changes, "removals": removals} {
		if _, err := plan.On(&leaving{t.Context(), 50}, empty, mesh.Quotas{}, todo); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := plan.On(&leaving{t.Context(), 100}, empty, mesh.Quotas{}, todo); err != nil {
			t.Errorf("%s: who stays gets %v", name, err)
		}
	}
}
