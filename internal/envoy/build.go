package envoy

import (
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// Reasons of problems that are found while a bundle is built.
const (
	// ReasonNotTranslated: a field has no effect yet.
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
	b := &build{
		owner: o, view: view, mesh: view.Client.Key.Mesh, own: view.Resource(),
		pieces: map[string]*piece{}, seen: map[mesh.Problem]bool{}, clusters: map[string]bool{},
	}
	if previous != nil {
		b.previous = previous.pieces
	}
	spec := view.Mesh.MeshSpec()
	if spec != nil {
		b.allowAll = spec.EgressFilter != nil && spec.EgressFilter.Type == api.EgressFilterTypeAllowAll
		if spec.ServiceDiscovery != nil {
			b.meshPreference = spec.ServiceDiscovery.IPPreference
		}
	}
	b.checkLog()
	if view.Gateway != nil {
		b.ip = ipFor(b.meshPreference)
		b.gateway(view.Gateway.VirtualGatewaySpec())
	} else {
		b.ip = ipFor(b.preference(view.Node))
		b.node(view.Node.VirtualNodeSpec())
	}
	out := &Bundle{View: view, owner: o, pieces: b.pieces}
	for _, t := range Types() {
		var old *List
		if previous != nil {
			old = previous.lists[t]
		}
		if t == LoadAssignment {
			// Filled by WithEndpoints; the same clusters keep the same endpoints.
			if out.lists[t] = list(nil, nil); old != nil && previous.lists[Cluster] == out.lists[Cluster] {
				out.lists[t] = old
			}
			continue
		}
		out.lists[t] = list(b.resources[t], old)
	}
	return out, b.problems
}

// build is one Build under way.
type build struct {
	owner          *Builder
	view           *mesh.View
	own            *api.Resource // the client's
	mesh           string        // its name, without owner
	meshPreference api.IPPreference
	ip             ip
	allowAll       bool

	previous map[string]*piece
	pieces   map[string]*piece

	clusters  map[string]bool // made or being made
	resources [Secret][]*Resource
	problems  []mesh.Problem
	seen      map[mesh.Problem]bool
}

// piece is a resource or virtual host with all that it was made from. When its
// inputs are the same again, so is the piece, and nothing is made.
type piece struct {
	inputs []*api.Resource
	extra  string // what else went in, as text

	resource *Resource    // nil when none could be made
	host     *VirtualHost // nil when none could be made
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
	p := b.previous[name]
	if !p.from(extra, inputs) {
		p = b.owner.piece(pieceKey{b.own.Key.Owner, b.mesh, name}, extra, inputs, func(p *piece) {
			mk(p)
			for _, r := range inputs {
				p.cut(r)
			}
		})
	}
	b.pieces[name] = p
	b.report(p.problems)
	return p
}

func (b *build) report(problems []mesh.Problem) {
	for _, p := range problems {
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
