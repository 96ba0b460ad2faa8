package quota

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// rows is a ledger that says what it is told to.
type rows struct {
	at       time.Time
	replicas map[string]time.Duration // how long each has been silent
	members  map[string]map[string][]string
	left     map[api.Key]map[string]time.Time // whom replicas had that left
	err      error
}

func (r *rows) Left(context.Context, api.Key) (map[api.Key]map[string]time.Time, error) {
	return r.left, r.err
}

func (r *rows) Mesh(context.Context, api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	var out []api.LedgerRow
	var replicas []api.Replica
	for id, silent := range r.replicas {
		replicas = append(replicas, api.Replica{ID: id, SeenAt: api.Timestamp{Time: r.at.Add(-silent)}})
		for client, instances := range r.members[id] {
			row := api.LedgerRow{Client: client, Replica: id}
			for _, name := range instances {
				name, peer, _ := strings.Cut(name, "@")
				row.Members = append(row.Members, api.Proxy{Instance: name, Peer: &peer})
			}
			out = append(out, row)
		}
	}
	return out, replicas, true, r.err
}

var (
	node    = api.Key{Owner: "111111111111", Mesh: "apps", Kind: api.KindVirtualNode, Name: "n"}
	gateway = api.Key{Owner: "111111111111", Mesh: "apps", Kind: api.KindVirtualGateway, Name: "g"}
)

// seats are those of the replica "here", at a time that the test moves.
func seats(limits mesh.Quotas, ledger *rows) (*Seats, *bytes.Buffer) {
	var log bytes.Buffer
	ledger.at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return (&Seats{
		Limits: limits, Settings: func(api.Key) api.QuotaSet { return "" }, Ledger: ledger, Replica: "here",
		Log: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return ledger.at },
	}).Init(), &log
}

func TestSeats(t *testing.T) {
	t.Run("QUOTA-002 QUOTA-003 what is connected elsewhere is counted, but not at replicas that are silent", func(t *testing.T) {
		s, _ := seats(mesh.Quotas{NodeEnvoys: 5}, &rows{
			replicas: map[string]time.Duration{"here": 0, "there": 10 * time.Second, "lost": 20 * time.Second},
			members: map[string]map[string][]string{
				"here":  {node.String(): {"a"}},
				"there": {node.String(): {"b", "c"}, gateway.String(): {"g"}},
				"lost":  {node.String(): {"d"}},
			},
		})
		most, code, elsewhere := s.Of(t.Context(), node)
		if diff := cmp.Diff(map[string]bool{"b": true, "c": true}, elsewhere); diff != "" || most != 5 || code != "L-606A910B" {
			t.Errorf("%d of %s, %s", most, code, diff)
		}
		for name, want := range map[string]bool{"a": true, "b": true, "d": true, "e": false, "g": false} {
			if got := s.Known(node, name, ""); got != want {
				t.Errorf("%s is known: %v", name, got)
			}
		}
		if most, _, _ := s.Of(t.Context(), gateway); most != 0 {
			t.Errorf("the gateway may have %d", most)
		}
	})
	t.Run("QUOTA-002 a proxy is remembered for an hour, and one without an id by its address", func(t *testing.T) {
		ledger := &rows{}
		s, _ := seats(mesh.Quotas{NodeEnvoys: 5}, ledger)
		s.Came(node, "id", "10.0.0.1:1000")
		s.Came(node, "10.0.0.2:1000", "10.0.0.2:1000")
		ledger.at = ledger.at.Add(time.Hour)
		s.look(t.Context())
		if !s.Known(node, "id", "10.0.0.9:1") || !s.Known(node, "10.0.0.2:2000", "10.0.0.2:2000") || s.Known(node, "10.0.0.3:1000", "10.0.0.3:1000") {
			t.Error("it is not known who was there")
		}
		ledger.at = ledger.at.Add(time.Second)
		if s.Known(node, "id", "") {
			t.Error("it is known for longer")
		}
		s.look(t.Context())
		if len(s.lately) != 0 {
			t.Errorf("%v is kept", s.lately)
		}
	})
	t.Run("QUOTA-002 proxies of a replica that left are known until an hour after they were seen", func(t *testing.T) {
		ledger := &rows{}
		s, _ := seats(mesh.Quotas{NodeEnvoys: 5}, ledger)
		ledger.left = map[api.Key]map[string]time.Time{node: {"a": ledger.at.Add(-time.Minute), "b": ledger.at.Add(-time.Hour - time.Second)}, gateway: {"g": ledger.at}}
		if _, _, elsewhere := s.Of(t.Context(), node); len(elsewhere) != 0 {
			t.Errorf("%v are connected", elsewhere)
		}
		for name, want := range map[string]bool{"a": true, "b": false, "g": false} {
			if got := s.Known(node, name, ""); got != want {
				t.Errorf("%s is known: %v", name, got)
			}
		}
		ledger.at = ledger.at.Add(59*time.Minute + time.Second)
		if s.Known(node, "a", "") {
			t.Error("it is known for longer")
		}
		if diff := cmp.Diff(map[api.Key]map[string]time.Time{node: {}}, s.Lately()); diff != "" {
			t.Errorf("it is handed on: %s", diff)
		}
	})
	t.Run("QUOTA-002 who was there before has its seat for a moment, until it is back", func(t *testing.T) {
		ledger := &rows{replicas: map[string]time.Duration{"here": 0, "there": 0}}
		s, _ := seats(mesh.Quotas{NodeEnvoys: 5}, ledger)
		ledger.left = map[api.Key]map[string]time.Time{node: {"b": ledger.at.Add(-time.Minute), "c": ledger.at.Add(-time.Minute), "old": ledger.at.Add(-3 * time.Minute)}}
		s.Remember([]api.LedgerRow{{Client: node.String(), Replica: "killed", Members: []api.Proxy{{Instance: "a"}}}}, ledger.left)
		wait := func(want ...string) {
			t.Helper()
			_, _, elsewhere := s.Of(t.Context(), node)
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(elsewhere)), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		}
		wait("a", "b", "c")
		s.Came(node, "b", "")
		wait("a", "c")
		ledger.members = map[string]map[string][]string{"there": {node.String(): {"c"}}}
		wait("a", "c")
		ledger.members = nil // c was back, and has ended
		wait("a")
		ledger.at = ledger.at.Add(15 * time.Second)
		wait()
		if !s.Known(node, "a", "") || !s.Known(node, "old", "") {
			t.Error("they are not known")
		}
	})
	t.Run("QUOTA-002 where it cannot be known who was there before nobody is refused for an hour", func(t *testing.T) {
		ledger := &rows{}
		s, _ := seats(mesh.Quotas{NodeEnvoys: 1}, ledger)
		s.Forgot()
		for after, want := range []int{0, 0, 1} {
			if most, _, _ := s.Of(t.Context(), node); most != want {
				t.Errorf("after %d half hours the limit is %d", after, most)
			}
			ledger.at = ledger.at.Add(30 * time.Minute)
		}
	})
	t.Run("QUOTA-002 a ledger that cannot be read refuses nobody", func(t *testing.T) {
		s, log := seats(mesh.Quotas{NodeEnvoys: 1}, &rows{err: errors.New("away")})
		if most, _, _ := s.Of(t.Context(), node); most != 0 || !strings.Contains(log.String(), "proxies cannot be counted and are let in") {
			t.Errorf("limit %d, log %q", most, log)
		}
	})
	t.Run("QUOTA-003 the warning comes once for each time that most of the quota is used", func(t *testing.T) {
		ledger := &rows{replicas: map[string]time.Duration{"here": 0, "there": 0}}
		s, log := seats(mesh.Quotas{NodeEnvoys: 10, GatewayEnvoys: 5}, ledger)
		connect := func(nodes, gateways string) {
			ledger.members = map[string]map[string][]string{"here": {node.String(): strings.Split(nodes, "")}, "there": {gateway.String(): strings.Split(gateways, "")}}
			s.look(t.Context())
		}
		if _, _, elsewhere := s.Of(t.Context(), node); len(elsewhere) != 0 {
			t.Fatal(elsewhere)
		}
		for i, c := range []struct {
			nodes, gateways string
			warnings        int // so far
			usage           map[string]float64
		}{
			{"abcdefg", "abc", 0, map[string]float64{"L-606A910B": 0.7, "L-33E8F9C9": 0.6}},
			{"abcdefgh", "abc", 1, map[string]float64{"L-606A910B": 0.8, "L-33E8F9C9": 0.6}},
			{"abcdefghi", "abcd", 2, map[string]float64{"L-606A910B": 0.9, "L-33E8F9C9": 0.8}},
			{"abcdefg", "abcd", 2, map[string]float64{"L-606A910B": 0.7, "L-33E8F9C9": 0.8}},
			{"abcdefghij", "abcd", 3, map[string]float64{"L-606A910B": 1, "L-33E8F9C9": 0.8}},
		} {
			connect(c.nodes, c.gateways)
			if diff := cmp.Diff(c.usage, maps.Clone(s.Usage())); diff != "" {
				t.Errorf("look %d: %s", i, diff)
			}
			if n := strings.Count(log.String(), "almost used up"); n != c.warnings {
				t.Errorf("look %d: %d warnings, want %d:\n%s", i, n, c.warnings, log)
			}
		}
	})
}
