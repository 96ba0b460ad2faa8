package rest_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// However many create at once, through whichever replica, no quota is passed:
// it is counted inside the transaction that writes.
func TestQuotasHoldAmongConcurrentWriters(t *testing.T) {
	t.Parallel()
	var replicas []*server
	for _, data := range storetest.Replicas(t, 2) {
		replicas = append(replicas, serveStore(t, data, func(c *rest.Config) { c.Quotas = mesh.AppMeshQuotas() }))
	}
	race := func(t *testing.T, n int, create func(s *server, i int) answer, message string) int {
		t.Helper()
		var made atomic.Int64
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				a := create(replicas[i%2], i)
				if a.status == 200 {
					made.Add(1)
					return
				}
				a.refused(t, 400, "LimitExceededException", message)
			})
		}
		all.Wait()
		return int(made.Load())
	}
	t.Run("QUOTA-004 fifteen meshes of an account", func(t *testing.T) {
		got := race(t, 24, func(s *server, i int) answer {
			return s.do(t, "PUT", meshes, fmt.Sprintf(`{"meshName": "m%d"}`, i))
		}, "You've reached the limit on number of Meshes(15) for the account 111111111111.")
		if got != 15 {
			t.Errorf("%d were made", got)
		}
		listed := replicas[0].do(t, "GET", meshes, "").ok(t)["meshes"].([]any)
		if len(listed) != 15 {
			t.Errorf("%d are there", len(listed))
		}
		name := listed[0].(map[string]any)["meshName"].(string)
		replicas[1].do(t, "PUT", meshes+"/"+name, `{"spec": {}}`).ok(t)
		replicas[1].do(t, "DELETE", meshes+"/"+name, "").ok(t)
		replicas[0].do(t, "PUT", meshes, `{"meshName": "apps", "clientToken": "t"}`).ok(t)
		// The same again, at the limit, is the first one's answer and no second mesh.
		replicas[1].do(t, "PUT", meshes, `{"meshName": "apps", "clientToken": "t"}`).ok(t)
		replicas[0].as(t, accountB, "PUT", meshes, `{"meshName": "apps"}`).ok(t)
	})
	t.Run("QUOTA-008 three gateways of a mesh", func(t *testing.T) {
		got := race(t, 12, func(s *server, i int) answer {
			return s.do(t, "PUT", meshes+"/apps/virtualGateways", fmt.Sprintf(`{"virtualGatewayName": "g%d", "spec": {"listeners": []}}`, i))
		}, "You've reached the limit on number of VirtualGateways(3) for the mesh apps.")
		if got != 3 {
			t.Errorf("%d were made", got)
		}
	})
	t.Run("QUOTA-011 without quotas there is no limit", func(t *testing.T) {
		s := serve(t, nil)
		for i := range 20 {
			s.do(t, "PUT", meshes, fmt.Sprintf(`{"meshName": "m%d"}`, i)).ok(t)
		}
	})
}
