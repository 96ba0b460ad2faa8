package mesh

import (
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// Turn is how far a virtual node is on its way to the listeners that are stored
// (D6.3). While it is Entering, its proxies get what is new and clients see what
// was. When they all have accepted that, clients see what is new, and while it is
// Leaving, the proxies keep what was until no client uses it any more.
//
// A Turn is immutable. To and Next make the next one; when to go on is for the
// caller to know.
type Turn struct {
	// Goal is the node as it is stored.
	Goal *api.Resource
	Offer
	// used are the listeners that clients may still use, as they saw them before,
	// beside those that they see.
	used []api.Listener
}

// Entering says that clients wait for the node's proxies.
func (t Turn) Entering() bool { return t.Seen != nil }

// Leaving says that the node's proxies wait for its clients, or will.
func (t Turn) Leaving() bool { return t.Own != nil }

// Resting says that nobody waits.
func (t Turn) Resting() bool { return !t.Entering() && !t.Leaving() }

// To is the turn when the node becomes another: from the beginning, without
// forgetting what clients may still use of turns that have not ended.
func (t Turn) To(goal *api.Resource) Turn {
	out := Turn{Goal: goal}
	if t.Goal.VirtualNodeSpec() == nil || goal.VirtualNodeSpec() == nil {
		return out // it comes or goes as a whole
	}
	seen := listenersOf(t.Goal)
	if t.Seen != nil {
		seen = listenersOf(t.Seen)
	}
	now := listenersOf(goal)
	out.used = both(seen, t.used)
	if gains(seen, now) {
		out.Seen = withListeners(goal, shown(seen, now))
	}
	if lasting(out.used, now) {
		out.Own = withListeners(goal, both(now, out.used))
	}
	if out.Resting() {
		out.used = nil // the goal has it all
	}
	return out
}

// Next is the turn when those who were waited for have accepted what they got.
func (t Turn) Next() Turn {
	if t.Entering() && t.Leaving() {
		return Turn{Goal: t.Goal, Offer: Offer{Own: t.Own}, used: t.used}
	}
	return Turn{Goal: t.Goal}
}

func listenersOf(node *api.Resource) []api.Listener { return node.VirtualNodeSpec().Listeners }

// withListeners is the node with other listeners.
func withListeners(node *api.Resource, listeners []api.Listener) *api.Resource {
	spec := *node.VirtualNodeSpec()
	spec.Listeners = listeners
	out := *node
	out.Spec = &spec
	return &out
}

// plain and secure say what a listener takes.
func plain(l *api.Listener) bool {
	return l.TLS == nil || l.TLS.Mode != api.ListenerTLSModeStrict
}

func secure(l *api.Listener) bool {
	return l.TLS != nil && l.TLS.Mode != api.ListenerTLSModeDisabled
}

// issued says whether clients that have no policy of their own check who issued
// the listener's certificate; of certificates from elsewhere they take any.
func issued(l *api.Listener) bool { return secure(l) && l.TLS.Certificate.ACM != nil }

// on is the listener of that port, or nil.
func on(list []api.Listener, port int64) *api.Listener {
	i := slices.IndexFunc(list, func(l api.Listener) bool { return l.PortMapping.Port == port })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// gains says whether to has something to use that from has not.
func gains(from, to []api.Listener) bool {
	return slices.ContainsFunc(to, func(l api.Listener) bool {
		old := on(from, l.PortMapping.Port)
		return old == nil || old.PortMapping.Protocol != l.PortMapping.Protocol || more(old, &l)
	})
}

// more says whether connections to a listener may be such that the other one does
// not take.
func more(other, l *api.Listener) bool {
	return plain(l) && !plain(other) || secure(l) && !secure(other) || issued(l) && secure(other) && !issued(other)
}

// lasting says whether something of used can be kept beside now: a port, or how
// connections to it may be. Two protocols cannot be had on one port.
func lasting(used, now []api.Listener) bool {
	return slices.ContainsFunc(used, func(l api.Listener) bool {
		next := on(now, l.PortMapping.Port)
		return next == nil || more(next, &l)
	})
}

// shown are the listeners that clients may use until the node's proxies have
// accepted now: those of before. What now says of them beside port, protocol and
// TLS holds at once.
func shown(before, now []api.Listener) []api.Listener {
	out := make([]api.Listener, 0, len(before))
	for i := range before {
		l := before[i]
		if next := on(now, l.PortMapping.Port); next != nil {
			l = *next
			l.PortMapping, l.TLS = before[i].PortMapping, before[i].TLS
			if l.PortMapping.Protocol != next.PortMapping.Protocol {
				l = before[i] // timeouts and checks are of a protocol
			}
		}
		out = append(out, l)
	}
	return out
}

// both are the listeners of now, which take beside what they say all that used
// takes, and after them the listeners that now has not.
func both(now, used []api.Listener) []api.Listener {
	out := make([]api.Listener, 0, len(now)+len(used))
	for i := range now {
		l := now[i]
		if old := on(used, l.PortMapping.Port); old != nil && more(&l, old) {
			l.TLS = joint(&l, old)
		}
		out = append(out, l)
	}
	for i := range used {
		if on(now, used[i].PortMapping.Port) == nil {
			out = append(out, used[i])
		}
	}
	return out
}

// joint is the TLS of a listener that takes what either of two takes.
func joint(l, old *api.Listener) *api.ListenerTLS {
	from := l
	if !secure(l) {
		from = old
	}
	if !secure(from) {
		return l.TLS
	}
	tls := *from.TLS
	if issued(old) && !issued(from) {
		tls.Certificate = old.TLS.Certificate
	}
	tls.Mode = api.ListenerTLSModeStrict
	if plain(l) || plain(old) {
		tls.Mode = api.ListenerTLSModePermissive
	}
	return &tls
}

// Form is a Turn as it is written down. A list that is nil stands for what is
// stored.
type Form struct {
	Goal []api.Listener `json:"goal"`
	Seen []api.Listener `json:"seen"`
	Own  []api.Listener `json:"own"`
	Used []api.Listener `json:"used"`
}

// Form is what of the turn cannot be read from what is stored.
func (t Turn) Form() Form {
	out := Form{Goal: listenersOf(t.Goal), Used: t.used}
	if t.Seen != nil {
		out.Seen = listenersOf(t.Seen)
	}
	if t.Own != nil {
		out.Own = listenersOf(t.Own)
	}
	return out
}

// Of is the turn that the form is of. same says that the node is as it was then; if
// not, it is the turn that has come of it. It rests if the node is none any more.
func (f Form) Of(node *api.Resource, same bool) Turn {
	if node.VirtualNodeSpec() == nil {
		return Turn{Goal: node}
	}
	out := Turn{Goal: withListeners(node, f.Goal), used: f.Used}
	if f.Seen != nil {
		out.Seen = withListeners(node, f.Seen)
	}
	if f.Own != nil {
		out.Own = withListeners(node, f.Own)
	}
	if !same {
		return out.To(node)
	}
	out.Goal = node
	return out
}
