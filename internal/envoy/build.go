package envoy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Reasons of problems that are found while a bundle is built.
const (
	// ReasonNotTranslated: a field has no effect.
	ReasonNotTranslated = "NotTranslated"
	// ReasonInvalid: Envoy would refuse what the resource says.
	ReasonInvalid = "Invalid"
	// ReasonMismatch: protocols or ports do not fit together.
	ReasonMismatch = "Mismatch"
	// ReasonConflict: two resources want the same port or name.
	ReasonConflict = "Conflict"
	// ReasonNoSource: endpoints come from where this control plane cannot look.
	ReasonNoSource = "NoSource"
)

// Build makes the bundle of a view. previous is the client's last bundle, or
// nil: what was made from the same inputs is taken over from it. A fault in one
// resource is a problem of that resource; the rest of the bundle is made, and
// routes that lead nowhere answer 503.
func (o *Builder) Build(view *mesh.View, previous *Bundle) (*Bundle, []mesh.Problem) {
	b := &build{owner: o, view: view, mesh: view.Client.Key.Mesh, own: view.Resource()}
	if previous != nil {
		b.previous, b.oldPieces, b.oldCallees = previous, previous.pieces, previous.callees
		b.callees = make([]*callee, 0, len(previous.callees))
	}
	b.meshWide.metrics, b.noSDS = view.Client.Traits.Metrics, view.Client.Traits.NoSDS
	b.direct = view.Client.Traits.Direct
	b.meshWide.noRetry = view.Mesh != nil && view.Mesh.Settings.DefaultRetry == api.DefaultRetryOff
	spec := view.Mesh.MeshSpec()
	if spec != nil {
		b.allowAll = spec.EgressFilter != nil && spec.EgressFilter.Type == api.EgressFilterTypeAllowAll
		if spec.ServiceDiscovery != nil {
			b.meshWide.preference = spec.ServiceDiscovery.IPPreference
		}
	}
	out := &Bundle{View: view, owner: o}
	if view.Gateway != nil {
		b.ip = ipFor(b.meshWide.preference)
		b.checkLog()
		b.gateway(view.Gateway.VirtualGatewaySpec())
	} else {
		b.ip = ipFor(b.preference(view.Node))
		out.inner = b.node()
	}
	out.pieces, out.callees = b.pieces, b.callees
	for _, t := range Types() {
		var old *List
		if previous != nil {
			old = previous.lists[t]
		}
		switch {
		case t == LoadAssignment:
			// Filled by WithEndpoints; the same clusters keep the same endpoints.
			if out.lists[t] = old; old == nil || previous.lists[Cluster] != out.lists[Cluster] {
				out.lists[t] = list(nil, nil)
			}
		case t == Cluster && b.sameClusters():
			out.lists[t] = old
		default:
			out.lists[t] = list(b.resources[t], old)
		}
	}
	out.clashes = b.clashes
	b.report(b.clashes)
	return out, b.problems
}

// sameClusters says whether the clusters of a node are those of the previous
// bundle; else they are gathered.
func (b *build) sameClusters() bool {
	if b.view.Gateway != nil {
		return false
	}
	if b.previous != nil && !b.clustersDiffer && len(b.callees) == len(b.oldCallees) {
		b.clashes = b.previous.clashes
		return true
	}
	all := b.resources[Cluster]
	for _, c := range b.callees {
		all = append(all, c.clusters...)
	}
	slices.SortFunc(all, func(x, y *Resource) int { return strings.Compare(x.Name, y.Name) })
	b.resources[Cluster] = b.settle(all)
	return false
}

// meshWide is what services' configuration takes from the mesh itself.
type meshWide struct {
	preference api.IPPreference
	noRetry    bool // routes without a retry policy have none (D11)
	metrics    bool // for proxies that count what targets do (mesh.Traits)
}

// build is one Build under way.
type build struct {
	owner    *Builder
	view     *mesh.View
	own      *api.Resource // the client's
	mesh     string        // its name, without owner
	meshWide meshWide
	ip       ip
	allowAll bool
	noSDS    bool        // for proxies without an SDS server of the workload's own
	direct   mesh.Direct // of a node's proxies; "" where traffic is redirected

	previous   *Bundle // nil at first
	oldPieces  []*piece
	next       int // where the next of oldPieces is expected
	pieces     []*piece
	oldCallees []*callee
	callees    []*callee
	// clustersDiffer says that the clusters of a node are not those of the
	// previous bundle.
	clustersDiffer bool
	clashes        []mesh.Problem // of backends that want the same cluster otherwise

	clusters  map[string]bool // of a gateway: made or being made
	resources [Secret][]*Resource
	problems  []mesh.Problem
	seen      map[mesh.Problem]bool
}

// piece is a resource or virtual host with all that it was made from. When its
// inputs are the same again, so is the piece, and nothing is made.
type piece struct {
	name   string
	inputs []*api.Resource
	extra  string // what else went in, as text

	resource *Resource    // nil when none could be made
	host     *VirtualHost // nil when none could be made
	enforced bool         // a cluster with the TLS of an enforced policy
	// unvalidated names the target of a cluster that speaks TLS with it and does not
	// look at its certificate; else empty.
	unvalidated string
	faults
}

// faults gathers problems; a nil one ignores them.
type faults struct{ problems []mesh.Problem }

func (f *faults) add(key api.Key, reason, format string, args ...any) {
	if f == nil {
		return
	}
	p := mesh.Problem{Key: key, Reason: reason, Message: fmt.Sprintf(format, args...)}
	if !slices.Contains(f.problems, p) {
		f.problems = append(f.problems, p)
	}
}

// from says whether the piece was made from those inputs.
func (p *piece) from(extra string, inputs []*api.Resource) bool {
	return p != nil && p.extra == extra && slices.Equal(p.inputs, inputs)
}

// piece returns what was made from the same inputs for the previous bundle or
// for another client of the mesh, or makes it. What goes in beside name, extra
// and inputs is the mesh's name alone.
func (b *build) piece(name, extra string, inputs []*api.Resource, mk func(p *piece)) *piece {
	p := b.old(name)
	if !p.from(extra, inputs) {
		p = b.shared(name, extra, inputs, mk)
	}
	b.pieces = append(b.pieces, p)
	b.report(p.problems)
	return p
}

// shared is piece without a look at the previous bundle, of which this one is to
// keep nothing.
func (b *build) shared(name, extra string, inputs []*api.Resource, mk func(p *piece)) *piece {
	all := func(p *piece) {
		mk(p)
		for _, r := range inputs {
			p.inspect(r)
		}
	}
	if slices.Contains(inputs, b.own) {
		p := &piece{name: name, extra: extra, inputs: inputs} // no other client has these inputs
		all(p)
		return p
	}
	return b.owner.piece(pieceKey{b.own.Key.Owner, b.mesh, name, b.meshWide.metrics}, extra, inputs, all)
}

// old is the previous bundle's piece of that name, or nil. Pieces come in nearly
// the same order every time.
func (b *build) old(name string) *piece {
	for i := range b.oldPieces {
		j := (b.next + i) % len(b.oldPieces)
		if b.oldPieces[j].name == name {
			b.next = j + 1
			return b.oldPieces[j]
		}
	}
	return nil
}

func (b *build) report(problems []mesh.Problem) {
	for _, p := range problems {
		if b.seen == nil {
			b.seen = map[mesh.Problem]bool{}
		}
		if !b.seen[p] {
			b.seen[p] = true
			b.problems = append(b.problems, p)
		}
	}
}

func (b *build) put(t Type, r *Resource) {
	if r != nil {
		b.resources[t] = append(b.resources[t], r)
	}
}
