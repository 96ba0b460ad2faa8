package ledger_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A change is not done while rows hold it back, whatever proxies have accepted
// (D6.3), however many parts the row has.
func TestWhatIsHeldBackIsNotDone(t *testing.T) {
	for name, n := range map[string]int{"in one part": 1, "in several": 1000} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			w := newWorld(s, "a")
			w.Applied(resource(t, s, theRoute, anyRoute))
			var list []api.Proxy
			for i := range n {
				list = append(list, w.proxy(node("n"), fmt.Sprint("instance-", i)))
			}
			for _, step := range []struct {
				held []string
				want string
			}{
				{nil, fmt.Sprintf("DONE %d/%d", n, n)},
				{[]string{node("other").Key.String(), theRoute.String()}, fmt.Sprintf("WAITING 0/%d", n)},
				{[]string{node("other").Key.String()}, fmt.Sprintf("DONE %d/%d", n, n)},
			} {
				w.connect(node("n"), list...)
				w.rows[node("n")].Held, w.rows[node("n")].Lacking = step.held, step.held
				w.flush(t)
				r := reader(s, w.now)
				if got, _ := rollout(t, r); got != step.want {
					t.Errorf("%q are held: rollout is %s, want %s", step.held, got, step.want)
				}
				rows, replicas, complete, err := r.Mesh(t.Context(), theRoute)
				if err != nil || !complete || len(rows) != 1 || len(replicas) != 1 || len(rows[0].Members) != n || !slices.Equal(rows[0].Held, step.held) || !slices.Equal(rows[0].Lacking, step.held) {
					t.Errorf("%q are held: the mesh is %d rows, %d replicas, complete %v, error %v", step.held, len(rows), len(replicas), complete, err)
				}
			}
		})
	}
}

// What a proxy refused is refused, also while its row holds something back.
func TestARefusalIsNotHeldBack(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.Applied(resource(t, s, theRoute, anyRoute))
	p, old := w.proxy(node("n"), "i"), "old"
	p.State = api.ProxyStateRefused
	for i := range p.Types {
		p.Types[i].Accepted, p.Types[i].Refusal = &old, &api.Refusal{Message: "no", Version: "1"}
	}
	w.connect(node("n"), p)
	w.rows[node("n")].Held = []string{theRoute.String()}
	w.flush(t)
	if got, _ := rollout(t, reader(s, w.now)); got != "REFUSED 0/1" {
		t.Errorf("rollout is %s", got)
	}
}

// The release before writes rows that say nothing of this.
func TestRowsOfTheReleaseBeforeHoldNothing(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.Applied(resource(t, s, theRoute, anyRoute))
	w.connect(node("n"), w.proxy(node("n"), "i"))
	w.rows[node("n")].Held = []string{theRoute.String()}
	w.flush(t)
	rows, err := s.Read(t.Context(), "ledger/rows/")
	if err != nil || len(rows) != 1 {
		t.Fatalf("%d rows, error %v", len(rows), err)
	}
	for key, value := range rows {
		var part map[string]any
		if err := json.Unmarshal(value, &part); err != nil || !strings.Contains(string(value), `"h":`) {
			t.Fatalf("the row is %s, error %v", value, err)
		}
		delete(part, "h")
		old, err := json.Marshal(part)
		if err == nil {
			err = s.Write(t.Context(), false, []store.Op{{Key: key, Value: old, Lasting: true}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := rollout(t, reader(s, w.now)); got != "DONE 1/1" {
		t.Errorf("rollout is %s", got)
	}
}

// Who asks for a mesh is told when proxies may be missing.
func TestAMeshHalfWrittenIsNotComplete(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	var list []api.Proxy
	for i := range 2500 {
		list = append(list, w.proxy(node("n"), fmt.Sprintf("instance-%04d", i)))
	}
	w.connect(node("n"), list...)
	w.flush(t)
	rows, err := s.Read(t.Context(), "ledger/rows/")
	if err != nil || len(rows) < 2 {
		t.Fatalf("%d parts, error %v", len(rows), err)
	}
	for key := range rows {
		if err := s.Write(t.Context(), false, []store.Op{{Key: key}}); err != nil {
			t.Fatal(err)
		}
		break
	}
	if _, _, complete, err := reader(s, w.now).Mesh(t.Context(), theRoute); complete || err != nil {
		t.Errorf("a mesh with a part missing is complete: %v, error %v", complete, err)
	}
}

// A node whose listeners lack secrets is not done before it is known whether its
// proxies can use them; then what they cannot use is told. Others do not wait.
func TestSecretsOnTheirWayAreNotDone(t *testing.T) {
	s := storetest.New(t)
	w := newWorld(s, "a")
	w.Applied(max(resource(t, s, theRoute.MeshKey(), `{}`), resource(t, s, theRoute, anyRoute), resource(t, s, node("n").Key, `{}`)))
	trouble := api.Problem{ResourceARN: realm.ARN(node("n").Key, account), Reason: "SecretRefused", Message: "no"}
	for _, step := range []struct {
		name     string
		lacking  []string
		problems []api.Problem
		want     string
	}{
		{"on their way", []string{"a", "b"}, nil, "WAITING 0/1"},
		{"refused", []string{"a"}, []api.Problem{trouble}, "DONE 1/1"},
		{"there", nil, nil, "DONE 1/1"},
	} {
		w.connect(node("n"), w.proxy(node("n"), "i"))
		w.rows[node("n")].Lacking, w.rows[node("n")].Problems = step.lacking, step.problems
		w.flush(t)
		r := reader(s, w.now)
		got, err := r.Rollout(t.Context(), node("n").Key)
		if err != nil {
			t.Fatal(err)
		}
		if told := fmt.Sprintf("%s %d/%d", got.State, got.ProxiesAccepted, got.ProxiesAffected); told != step.want || !slices.Equal(got.Problems, step.problems) {
			t.Errorf("%s: rollout is %s with %v, want %s", step.name, told, got.Problems, step.want)
		}
		mesh, err := r.Rollout(t.Context(), theRoute.MeshKey())
		if err != nil {
			t.Fatal(err)
		}
		if told := fmt.Sprintf("%s %d/%d", mesh.State, mesh.ProxiesAccepted, mesh.ProxiesAffected); told != step.want || !slices.Equal(mesh.Problems, step.problems) {
			t.Errorf("%s: rollout of the mesh is %s with %v, want %s", step.name, told, mesh.Problems, step.want)
		}
		if got, _ := rollout(t, r); got != "DONE 1/1" {
			t.Errorf("%s: the rollout of a route is %s", step.name, got)
		}
	}
}
