package rest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/store"
)

// Plan, Explain and DescribeRollout tell of a mesh to whom the API describes it,
// and of no resource what the API would not do with it. Without a share that is its
// owner; TestSharedMeshOperations has the rest.
func TestPlanAndExplainTellNoMoreThanTheAPI(t *testing.T) {
	t.Parallel()
	const stranger = "333333333333"
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName":"own","spec":{}}`).ok(t)
	foreign := api.Key{Owner: accountA, Mesh: "apps", Kind: api.KindVirtualNode, Name: "foreign"}
	_, err := s.store.Update(t.Context(), []store.Scope{store.MeshScope(accountA, "apps")}, func(tx *store.Tx) error {
		tx.Put(&api.Resource{Key: foreign, UID: uuid.NewString(), Version: 1, Created: s.clock.Now(), Updated: s.clock.Now(), Owner: accountB, Document: []byte(`{}`), Spec: &api.VirtualNodeSpec{}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{"own": accountA, "foreign": accountB}
	for account, want := range map[string]int{accountA: http.StatusOK, accountB: http.StatusForbidden, stranger: http.StatusForbidden} {
		for node, owner := range owners {
			t.Run("IAM-016 "+account+" and "+node, func(t *testing.T) {
				const of = "?meshOwner=" + accountA
				input, err := json.Marshal(map[string]any{"meshName": "apps", "meshOwner": accountA, "virtualNodeName": node, "spec": map[string]any{"backends": []any{}}})
				if err != nil {
					t.Fatal(err)
				}
				// Who owns the mesh changes what it created there, and no more.
				changes, action := want, "UPDATE"
				if owner != account {
					changes, action = http.StatusForbidden, "REFUSED"
				}
				arn := url.QueryEscape("arn:aws:appmesh:us-east-1:" + owner + ":mesh/apps@" + accountA + "/virtualNode/" + node)
				for _, call := range []struct {
					name, method, path, body string
					want                     int
				}{
					{"Plan", "POST", "/evermesh/v1/plan", changed("virtualNode", string(input), false), want},
					{"Explain", "GET", "/evermesh/v1/explain?resourceArn=" + arn, "", want},
					{"DescribeRollout", "GET", "/evermesh/v1/rollout?resourceArn=" + arn, "", want},
					{"DescribeVirtualNode", "GET", meshes + "/apps/virtualNodes/" + node + of, "", want},
					{"UpdateVirtualNode", "PUT", meshes + "/apps/virtualNodes/" + node + of, `{"spec":{"backends":[]}}`, changes},
				} {
					got := s.as(t, account, call.method, call.path, call.body)
					if got.status != call.want {
						t.Errorf("%s: status %d, want %d: %s", call.name, got.status, call.want, got.body)
					}
					if call.name == "Plan" && want == http.StatusOK {
						if r := first(t, got); r["action"] != action {
							t.Errorf("the plan says %v", r)
						}
					}
				}
			})
		}
	}
}
