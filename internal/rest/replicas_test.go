package rest_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/store/storetest"
)

// Replicas share nothing but etcd, and callers may go from one to the other
// with every request.
func TestReplicas(t *testing.T) {
	t.Parallel()
	var replicas []*server
	for _, data := range storetest.Replicas(t, 2) {
		replicas = append(replicas, serveStore(t, data, nil))
	}
	t.Run("API-023 each sees what the other has acknowledged", func(t *testing.T) {
		t.Parallel()
		for i := range 20 {
			one, other := replicas[i%2], replicas[(i+1)%2]
			mesh := fmt.Sprintf("m%d", i)
			one.do(t, "PUT", meshes, `{"meshName": "`+mesh+`"}`).ok(t)
			other.do(t, "PUT", meshes+"/"+mesh+"/virtualNodes", `{"virtualNodeName": "n", "spec": {}}`).ok(t)
			one.do(t, "PUT", meshes+"/"+mesh+"/virtualNodes/n", `{"spec": {"backends": []}}`).ok(t)
			if got := other.do(t, "GET", meshes+"/"+mesh+"/virtualNodes/n", "").ok(t); fmt.Sprint(at(got, "metadata", "version")) != "2" {
				t.Errorf("got %v", got)
			}
			one.do(t, "DELETE", meshes+"/"+mesh, "").refused(t, 409, "ResourceInUseException", "Mesh "+mesh+" for account 111111111111 has active VirtualNodes, please delete VirtualNodes before deleting the Mesh")
			other.do(t, "DELETE", meshes+"/"+mesh+"/virtualNodes/n", "").ok(t)
			one.do(t, "DELETE", meshes+"/"+mesh, "").ok(t)
		}
	})
	t.Run("API-031 one token, both replicas", func(t *testing.T) {
		t.Parallel()
		answers := make([]answer, 8)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				answers[i] = replicas[i%2].do(t, "PUT", meshes, `{"meshName": "token", "clientToken": "t"}`)
			})
		}
		all.Wait()
		for _, a := range answers {
			a.ok(t)
			if string(a.body) != string(answers[0].body) {
				t.Errorf("got %s\nand %s", a.body, answers[0].body)
			}
		}
	})
	t.Run("every update counts one version", func(t *testing.T) {
		t.Parallel()
		replicas[0].do(t, "PUT", meshes, `{"meshName": "counted"}`).ok(t)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for range 5 {
					replicas[i%2].do(t, "PUT", meshes+"/counted", `{"spec": {}}`).ok(t)
				}
			})
		}
		all.Wait()
		if got := replicas[1].do(t, "GET", meshes+"/counted", "").ok(t); fmt.Sprint(at(got, "metadata", "version")) != "21" {
			t.Errorf("got %v after 20 updates", got)
		}
	})
	t.Run("a mesh goes or gets a node, never both", func(t *testing.T) {
		t.Parallel()
		for i := range 20 {
			mesh := fmt.Sprintf("race%d", i)
			replicas[0].do(t, "PUT", meshes, `{"meshName": "`+mesh+`"}`).ok(t)
			var gone, made answer
			var all sync.WaitGroup
			all.Go(func() { gone = replicas[0].do(t, "DELETE", meshes+"/"+mesh, "") })
			all.Go(func() {
				made = replicas[1].do(t, "PUT", meshes+"/"+mesh+"/virtualNodes", `{"virtualNodeName": "n", "spec": {}}`)
			})
			all.Wait()
			deleted, refused := gone.status == 200 && made.status == 404, gone.status == 409 && made.status == 200
			if !deleted && !refused {
				t.Errorf("deletion: %d %s\ncreation: %d %s", gone.status, gone.body, made.status, made.body)
			}
		}
	})
}
