package publish

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// silentAfter is when a replica that did not say that it lives is waited for no
	// more; its proxies are, as its rows tell of them.
	silentAfter = 15 * time.Second
	// mostNamed is how many of those who are waited for are named.
	mostNamed = 3
)

// standing is what the ledger says of a mesh.
type standing struct {
	now      time.Time
	rows     []api.LedgerRow
	replicas []api.Replica
	complete bool // else some are missing, or all
}

// behind are the replicas that have not applied the change, or not said so: what
// they say of their proxies is older.
func (s *standing) behind(x listed) []string {
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
	for _, row := range s.rows {
		if row.Client != x.key.String() {
			continue
		}
		for _, p := range row.Members {
			if row.Revision < x.revision || !listens(p) {
				out = append(out, proxyName(row, p))
			}
		}
		if len(row.Members) > 0 && x.secure() && slices.ContainsFunc(row.Problems, secretless) {
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

func secretless(p api.Problem) bool {
	return p.Reason == ads.ReasonSecretDenied || p.Reason == ads.ReasonSecretRefused
}

// leaving are the proxies that may still use the listeners of before: those whose
// services lead to the node, or led there a short while ago, and that have not
// accepted what they are to have now.
func (s *standing) leaving(x listed, leads, led map[string]bool) []string {
	var out []string
	for _, row := range s.rows {
		behind := row.Revision < x.revision || slices.Contains(row.Held, x.key.String())
		for _, p := range row.Members {
			if leads[row.Client] && (behind || p.State != api.ProxyStateCurrent) || led[row.Client] && p.State != api.ProxyStateCurrent {
				out = append(out, proxyName(row, p))
			}
		}
	}
	return out
}

func proxyName(row api.LedgerRow, p api.Proxy) string {
	name := row.Client
	if key, err := api.ParseKey(row.Client); err == nil {
		name = string(key.Kind) + " " + key.Name
	}
	return "proxy " + p.Instance + " of " + name + " at replica " + row.Replica
}

func named(all []string) string {
	if more := len(all) - mostNamed; more > 0 {
		return strings.Join(all[:mostNamed], ", ") + fmt.Sprintf(", and %d more", more)
	}
	return strings.Join(all, ", ")
}

// leading are the clients of these rows whose services lead to the node.
func (l *Loop) leading(node api.Key, rows []api.LedgerRow) map[string]bool {
	snapshot := l.Snapshot()
	clients := make([]mesh.Client, 0, len(rows))
	self := false
	for _, row := range rows {
		key, err := api.ParseKey(row.Client)
		switch {
		case err != nil || len(row.Members) == 0:
		case key == node:
			self = true
		default:
			clients = append(clients, mesh.Client{Key: key})
		}
	}
	out := map[string]bool{}
	for c := range l.reading(snapshot, node, clients) {
		out[c.Key.String()] = true
	}
	if self {
		view, _, _ := snapshot.View(mesh.Client{Key: node})
		out[node.String()] = view != nil && view.Leads(node)
	}
	return out
}

// led are the clients, of those with proxies that have not accepted what they are to
// have, whose services led to the node a short while ago.
func (l *Loop) led(x listed, rows []api.LedgerRow, leads map[string]bool) map[string]bool {
	var clients []mesh.Client
	for _, row := range rows {
		key, err := api.ParseKey(row.Client)
		if err == nil && !leads[row.Client] && slices.ContainsFunc(row.Members, func(p api.Proxy) bool { return p.State != api.ProxyStateCurrent }) {
			clients = append(clients, mesh.Client{Key: key})
		}
	}
	out := map[string]bool{}
	for c, was := range l.past.led(x.key, clients, x.since.Add(-l.PublishWait)) {
		out[c.Key.String()] = was
	}
	return out
}
