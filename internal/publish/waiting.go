package publish

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

const (
	// silentAfter is when a replica that did not say that it lives is waited for no
	// more; its proxies are, as its rows tell of them.
	silentAfter = 15 * time.Second
	// mostNamed is how many of those who are waited for are named.
	mostNamed = 3
)

// standing is what the ledger says of a mesh, read once for all its turns.
type standing struct {
	now      time.Time
	rows     []api.LedgerRow
	replicas []api.Replica
	complete bool // else some are missing, or all

	names  [][]string       // of the rows' proxies, as they are told of
	of     map[string][]int // the rows of a client
	held   map[string][]int // the rows that are shown a key otherwise than it is stored
	behind []int            // the rows with proxies that have not accepted everything
	uses   uses
}

// index makes what is looked up for each turn.
func (s *standing) index() *standing {
	s.names = make([][]string, len(s.rows))
	s.of, s.held = make(map[string][]int, len(s.rows)), map[string][]int{}
	for i, row := range s.rows {
		s.of[row.Client] = append(s.of[row.Client], i)
		for _, key := range row.Held {
			s.held[key] = append(s.held[key], i)
		}
		if slices.ContainsFunc(row.Members, pending) {
			s.behind = append(s.behind, i)
		}
	}
	return s
}

func pending(p api.Proxy) bool { return p.State != api.ProxyStateCurrent }

// name is how a row's proxy is told of.
func (s *standing) name(row, proxy int) string {
	r := &s.rows[row]
	if s.names[row] == nil {
		of := r.Client
		if key, err := api.ParseKey(of); err == nil {
			of = string(key.Kind) + " " + key.Name
		}
		for _, p := range r.Members {
			s.names[row] = append(s.names[row], "proxy "+p.Instance+" of "+of+" at replica "+r.Replica)
		}
	}
	return s.names[row][proxy]
}

// unapplied are the replicas that have not applied the change, or not said so: what
// they say of their proxies is older.
func (s *standing) unapplied(x listed) []string {
	var out []string
	for _, r := range s.replicas {
		if r.AppliedRevision < x.revision && s.now.Sub(r.SeenAt.Time) <= silentAfter {
			out = append(out, "replica "+r.ID)
		}
	}
	return out
}

// entering are the node's proxies that do not take what its new listeners say.
func (s *standing) entering(x listed) []string {
	var out []string
	for _, i := range s.of[x.key.String()] {
		row := &s.rows[i]
		for n, p := range row.Members {
			if row.Revision < x.revision || !listens(p) {
				out = append(out, s.name(i, n))
			}
		}
		if len(row.Members) > 0 && len(row.Lacking) > 0 && x.secure() {
			out = append(out, "a secret of a proxy at replica "+row.Replica)
		}
	}
	return out
}

// listens says whether the proxy has accepted the listeners that it is to have, and
// the routes that they wait for.
func listens(p api.Proxy) bool {
	found := false
	for _, t := range p.Types {
		if t.Type == api.DiscoveryTypeListener || t.Type == api.DiscoveryTypeRoute {
			found = true
			if t.Wanted == nil || t.Accepted == nil || *t.Wanted != *t.Accepted {
				return false
			}
		}
	}
	return found || p.State == api.ProxyStateCurrent
}

// secure says whether the node has listeners with TLS, which are closed without
// their certificates.
func (x listed) secure() bool {
	return slices.ContainsFunc(x.Goal.VirtualNodeSpec().Listeners, func(l api.Listener) bool {
		return l.TLS != nil && l.TLS.Mode != api.ListenerTLSModeDisabled
	})
}

// leaving are the proxies that may still use the listeners of before: those whose
// services lead to the node, or are shown it as it was, or led there a short while
// ago, and that have not accepted what they are to have now.
func (s *standing) leaving(x listed, since time.Time) []string {
	node := x.key.String()
	users := s.uses.of[x.key]
	vague := s.uses.forgotten.After(since)
	rows := slices.Clone(s.held[node])
	for client := range users {
		rows = append(rows, s.of[client]...)
	}
	if vague {
		rows = append(rows, s.behind...)
	}
	slices.Sort(rows)
	var out []string
	for _, i := range slices.Compact(rows) {
		row, use := &s.rows[i], users[s.rows[i].Client]
		held := slices.Contains(row.Held, node)
		leads := use.leads || held && row.Client != node // its own are shown what they get
		led := vague || use.until.After(since)
		for n, p := range row.Members {
			if leads && (held || row.Revision < x.revision || pending(p)) || led && pending(p) {
				out = append(out, s.name(i, n))
			}
		}
	}
	return out
}

func named(all []string) string {
	if more := len(all) - mostNamed; more > 0 {
		return strings.Join(all[:mostNamed], ", ") + fmt.Sprintf(", and %d more", more)
	}
	return strings.Join(all, ", ")
}
