package quota

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// silentAfter is when a replica that writes nothing has lost its proxies, as far as
	// they are counted.
	silentAfter = 15 * time.Second
	// RemembersFor is how long a proxy that left may come back whatever the quota says;
	// mostRemembered is of how many of one node that is known.
	RemembersFor   = time.Hour
	mostRemembered = 10_000
	// returnsWithin is how long after a replica left its proxies have their seats at its
	// successor, for silentAfter: nobody else takes them while they come back.
	returnsWithin = 2 * time.Minute
	// lookEvery is how often proxies are counted for the warning.
	lookEvery = 10 * time.Second
	// warnAt is the share of a quota from which there is a warning.
	warnAt = 0.8
)

// Ledger tells which proxies all replicas have; *ledger.Reader is one.
type Ledger interface {
	Mesh(ctx context.Context, key api.Key) (rows []api.LedgerRow, replicas []api.Replica, complete bool, err error)
	// Left is when the proxies that replicas had when they left were connected last, by
	// what Lately calls them: at least all that are in no row of Mesh any more.
	Left(ctx context.Context, key api.Key) (map[api.Key]map[string]time.Time, error)
}

// Seats says how many proxies nodes and gateways may have, and which they have or had
// lately (QUOTA-002, QUOTA-003). All fields but Full and Every are required; Init comes first.
type Seats struct {
	Limits mesh.Limits
	// Settings are what a mesh says of quotas.
	Settings func(mesh api.Key) api.QuotaSet
	Ledger   Ledger
	Replica  string // this one, in the ledger
	// Full is told, once and by one replica, that a node or gateway has most of its
	// quota: its code, how many proxies there are, and how many there may be.
	Full  func(ctx context.Context, key api.Key, code string, proxies, limit int)
	Log   *slog.Logger
	Now   func() time.Time
	Every time.Duration // between two looks; 0 is 10 s

	mu     sync.Mutex
	meshes map[api.Key]bool                 // in which somebody asked for a seat
	lately map[api.Key]map[string]time.Time // proxies of nodes, and when they were seen
	warned map[api.Key]bool
	usage  map[string]float64
	// returning are proxies of before that have their seats until then, though they are
	// not back; forgot is until when nobody is refused, as they are not known.
	returning map[api.Key]map[string]bool
	until     time.Time
	forgot    time.Time
}

// Init makes Seats ready for its other methods.
func (s *Seats) Init() *Seats {
	s.meshes, s.lately = map[api.Key]bool{}, map[api.Key]map[string]time.Time{}
	s.warned, s.usage = map[api.Key]bool{}, map[string]float64{}
	s.returning = map[api.Key]map[string]bool{}
	return s
}

// limit is the quota of a node or gateway, and its code.
func (s *Seats) limit(key api.Key) (most int, code string) {
	q := s.Limits.For(key.Owner, s.Settings(key.MeshKey()))
	if key.Kind == api.KindVirtualGateway {
		return q.GatewayEnvoys, gatewayEnvoys
	}
	return q.NodeEnvoys, nodeEnvoys
}

// Of returns the quota of a node or gateway with its code, 0 for no limit, and which
// proxies of it are connected to other replicas. When the ledger cannot be read there is
// no limit: a count that fails refuses nobody.
func (s *Seats) Of(ctx context.Context, key api.Key) (most int, code string, elsewhere map[string]bool) {
	most, code = s.limit(key)
	if most == 0 {
		return 0, code, nil
	}
	s.mu.Lock()
	s.meshes[key.MeshKey()] = true
	forgot := s.Now().Before(s.forgot)
	s.mu.Unlock()
	if forgot {
		return 0, code, nil
	}
	rows, replicas, _, err := s.Ledger.Mesh(ctx, key.MeshKey())
	var left map[api.Key]map[string]time.Time
	if err == nil {
		left, err = s.Ledger.Left(ctx, key.MeshKey())
	}
	if err != nil {
		s.Log.Warn("proxies cannot be counted and are let in", "key", key.String(), "err", err)
		return 0, code, nil
	}
	silent := s.silent(replicas)
	s.recall(key, left[key])
	elsewhere = map[string]bool{}
	for _, row := range rows {
		if row.Client != key.String() {
			continue
		}
		s.note(key, row.Members)
		if row.Replica == s.Replica || silent[row.Replica] {
			continue
		}
		for _, m := range row.Members {
			elsewhere[m.Instance] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Now().Before(s.until) {
		maps.Copy(elsewhere, s.returning[key])
	}
	return most, code, elsewhere
}

// silent are the replicas that have written nothing for a while.
func (s *Seats) silent(replicas []api.Replica) map[string]bool {
	out := map[string]bool{}
	for _, r := range replicas {
		if s.Now().Sub(r.SeenAt.Time) > silentAfter {
			out[r.ID] = true
		}
	}
	return out
}

// identity is how a proxy is known again. One without an id of its own is called by its
// address, whose port is another each time.
func identity(instance, peer string) string {
	if host, _, err := net.SplitHostPort(instance); err == nil && instance == peer {
		return host
	}
	return instance
}

// Known says whether a proxy of the node or gateway was connected lately.
func (s *Seats) Known(key api.Key, instance, peer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.lately[key][identity(instance, peer)]
	return ok && s.Now().Sub(at) <= RemembersFor
}

// Came remembers a proxy that was let in.
func (s *Seats) Came(key api.Key, instance, peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remember(key, identity(instance, peer), s.Now())
}

// note remembers proxies that the ledger has.
func (s *Seats) note(key api.Key, members []api.Proxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range members {
		peer := ""
		if m.Peer != nil {
			peer = *m.Peer
		}
		s.remember(key, identity(m.Instance, peer), s.Now())
	}
}

// remember remembers a proxy that was connected at that time; it is back, if it was
// waited for. The lock is held.
func (s *Seats) remember(key api.Key, name string, at time.Time) {
	delete(s.returning[key], name)
	if s.lately[key] == nil {
		s.lately[key] = map[string]time.Time{}
	}
	if before, ok := s.lately[key][name]; (ok || len(s.lately[key]) < mostRemembered) && at.After(before) {
		s.lately[key][name] = at
	}
}

// recall remembers proxies of replicas that left. None of them is back for that.
func (s *Seats) recall(key api.Key, left map[string]time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, at := range left {
		waited := s.returning[key][name]
		s.remember(key, name, at)
		if waited {
			s.returning[key][name] = true
		}
	}
}

// Remember takes over what was known before this replica began: what a killed one left
// in the ledger, and what those that left have noted. For a moment they have their
// seats, so that nobody takes them before they are back.
func (s *Seats) Remember(rows []api.LedgerRow, left map[api.Key]map[string]time.Time) {
	for _, row := range rows {
		if key, err := api.ParseKey(row.Client); err == nil {
			s.note(key, row.Members)
		}
	}
	for key, proxies := range left {
		s.recall(key, proxies)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = s.Now().Add(silentAfter)
	for key, proxies := range s.lately {
		s.returning[key] = map[string]bool{}
		for name, at := range proxies {
			if s.Now().Sub(at) <= returnsWithin {
				s.returning[key][name] = true
			}
		}
	}
}

// Forgot says that it cannot be known who was there before: nobody is refused for as long
// as they would be remembered.
func (s *Seats) Forgot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgot = s.Now().Add(RemembersFor)
}

// Lately is when proxies of each node and gateway were seen last, for whoever is to know
// them when this replica has left. A proxy without an id of its own is called by its
// address.
func (s *Seats) Lately() map[api.Key]map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[api.Key]map[string]time.Time, len(s.lately))
	for key, proxies := range s.lately {
		out[key] = maps.Clone(proxies)
		maps.DeleteFunc(out[key], func(_ string, at time.Time) bool { return s.Now().Sub(at) > RemembersFor })
	}
	return out
}

// Usage is, for each quota of connected proxies that binds somebody, the largest share
// of it that a node or gateway uses, as of the last look.
func (s *Seats) Usage() map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.usage)
}

// Run counts proxies from time to time until ctx ends, and returns its error.
func (s *Seats) Run(ctx context.Context) error {
	every := s.Every
	if every == 0 {
		every = lookEvery
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.look(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look counts the proxies of all meshes in which somebody asked for a seat, remembers
// them, and warns once of each node and gateway that has most of its quota.
func (s *Seats) look(ctx context.Context) {
	s.mu.Lock()
	meshes := maps.Clone(s.meshes)
	s.mu.Unlock()
	usage, full := map[string]float64{}, map[api.Key]bool{}
	for key := range meshes {
		rows, replicas, complete, err := s.Ledger.Mesh(ctx, key)
		if err != nil || !complete {
			s.mu.Lock()
			maps.Copy(full, s.warned) // what was full may be so still
			s.mu.Unlock()
			continue
		}
		for node, n := range s.count(rows, s.silent(replicas)) {
			most, code := s.limit(node)
			if most == 0 {
				continue
			}
			share := float64(n) / float64(most)
			usage[code] = max(usage[code], share)
			if full[node] = share >= warnAt; full[node] {
				s.warn(ctx, node, code, n, most, s.first(replicas))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.usage = usage
	maps.DeleteFunc(s.warned, func(key api.Key, _ bool) bool { return !full[key] })
	for key, proxies := range s.lately {
		maps.DeleteFunc(proxies, func(_ string, at time.Time) bool { return s.Now().Sub(at) > RemembersFor })
		if len(proxies) == 0 {
			delete(s.lately, key)
		}
	}
}

// count is how many proxies each node and gateway has on replicas that are not silent.
func (s *Seats) count(rows []api.LedgerRow, silent map[string]bool) map[api.Key]int {
	instances := map[api.Key]map[string]bool{}
	for _, row := range rows {
		key, err := api.ParseKey(row.Client)
		if err != nil {
			continue
		}
		s.note(key, row.Members)
		if silent[row.Replica] {
			continue
		}
		if instances[key] == nil {
			instances[key] = map[string]bool{}
		}
		for _, m := range row.Members {
			instances[key][m.Instance] = true
		}
	}
	out := map[api.Key]int{}
	for key, all := range instances {
		out[key] = len(all)
	}
	return out
}

// first says whether this replica is the first of those that are not silent: all see
// the same, and one tells of it.
func (s *Seats) first(replicas []api.Replica) bool {
	silent := s.silent(replicas)
	for _, r := range replicas {
		if r.ID < s.Replica && !silent[r.ID] {
			return false
		}
	}
	return true
}

// warn tells once that a node or gateway has most of its quota.
func (s *Seats) warn(ctx context.Context, key api.Key, code string, n, most int, first bool) {
	s.mu.Lock()
	told := s.warned[key]
	s.warned[key] = true
	s.mu.Unlock()
	if !told && first && s.Full != nil {
		s.Full(ctx, key, code, n, most)
	}
	if !told {
		s.Log.Warn("quota of connected proxies is almost used up", "mesh", key.Mesh, "key", key.String(), "quota", code, "proxies", n, "limit", most)
	}
}
