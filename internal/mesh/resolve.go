package mesh

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// ReasonNotFound is the reason of a problem with a resource that names another
// one that does not exist.
const ReasonNotFound = "NotFound"

// View resolves what the client needs. The view is nil when the client's node
// or gateway does not exist. Faults are problems, never errors: what cannot be
// resolved is missing in the view and nothing else is touched. Reads name all
// that was looked at, found or not.
func (s *Snapshot) View(c Client) (*View, []Problem, Reads) {
	t := s.meshes[scope{c.Key.Owner, c.Key.Mesh}]
	if t == nil {
		return nil, nil, Reads{client: c.Key}
	}
	v := &View{Client: c}
	switch own := s.own(c.Key); {
	case c.Key.Kind == api.KindVirtualNode && own.VirtualNodeSpec() != nil:
		if v.Node = own; s.stored != nil {
			v.stored = s.stored.Get(c.Key)
		}
	case c.Key.Kind == api.KindVirtualGateway && own.VirtualGatewaySpec() != nil:
		v.Gateway = own
	default:
		return nil, nil, Reads{client: c.Key}
	}
	r := resolver{tables: t, view: v, reads: Reads{client: c.Key, found: true}}
	if v.Mesh = t.mesh; v.Mesh == nil {
		r.problem(notFound(c.Key, "mesh %s does not exist: create it; until then its defaults hold", c.Key.Mesh))
	}
	if v.Node != nil {
		r.node()
	} else {
		r.gateway()
	}
	r.reads.backends, r.reads.routes = v.Backends, v.GatewayRoutes
	v.Held = s.held(v)
	return v, r.problems, r.reads
}

// resolver makes one view and keeps note of what it reads. The services of the
// view are those of the memo: all views share them.
type resolver struct {
	tables   *tables
	view     *View
	reads    Reads
	problems []Problem
	seen     map[Problem]bool
}

func (r *resolver) problem(p Problem) {
	if r.seen == nil {
		r.seen = map[Problem]bool{}
	}
	if !r.seen[p] {
		r.seen[p] = true
		r.problems = append(r.problems, p)
	}
}

// resolve is the memo's, and notes what was looked for in vain.
func (r *resolver) resolve(names []string, out []*Service) []*Service {
	out = r.tables.memo.resolve(r.tables, r.view.Client.Key.MeshKey(), names, out)
	for i, s := range out {
		if s == nil {
			r.reads.missing = append(r.reads.missing, names[i])
			continue
		}
		for _, p := range s.problems {
			r.problem(p)
		}
	}
	return out
}

// usual is a number of services that fits on the stack.
const usual = 32

func (r *resolver) node() {
	v := r.view
	backends := v.Node.VirtualNodeSpec().Backends
	var nameSpace [usual]string
	var serviceSpace [usual]*Service
	names := nameSpace[:0]
	for i := range backends {
		b := backends[i].VirtualService
		if b == nil {
			continue
		}
		name, ok := r.serviceName(b.VirtualServiceName)
		if !ok {
			r.problem(notFound(v.Client.Key, "spec.backends[%d].virtualService.virtualServiceName: %s is no virtual service of this mesh; the backend is ignored", i, b.VirtualServiceName))
			continue
		}
		names = append(names, name)
	}
	found := r.resolve(names, serviceSpace[:0])
	v.Backends = make([]Backend, 0, len(names))
	for i := range backends {
		b := backends[i].VirtualService
		if b == nil {
			continue
		}
		if _, ok := r.serviceName(b.VirtualServiceName); !ok {
			continue
		}
		name, service := names[0], found[0]
		if names, found = names[1:], found[1:]; service == nil {
			r.problem(notFound(v.Client.Key, "spec.backends[%d]: virtual service %s does not exist; the backend is ignored until it is created", i, name))
			continue
		}
		v.Backends = append(v.Backends, Backend{Spec: b, Service: service})
	}
}

// serviceName reads a backend, which names its service by name or by ARN
// (VN-023).
func (r *resolver) serviceName(s string) (string, bool) {
	if !strings.HasPrefix(s, "arn:") {
		return s, true
	}
	arn, err := api.ParseARN(s)
	if err != nil || arn.Kind != api.KindVirtualService || arn.Mesh != r.view.Client.Key.Mesh {
		return "", false
	}
	return arn.Name, true
}

func (r *resolver) gateway() {
	v := r.view
	list := r.tables.kinds[nested].list(v.Client.Key.Name)
	v.GatewayRoutes = make([]GatewayRoute, 0, len(list))
	var names []string
	for _, route := range list {
		g := GatewayRoute{Resource: route}
		if t := g.Target(); t != nil {
			names = append(names, t.VirtualService.VirtualServiceName)
		}
		v.GatewayRoutes = append(v.GatewayRoutes, g)
	}
	found := r.resolve(names, make([]*Service, 0, len(names)))
	for i := range v.GatewayRoutes {
		g := &v.GatewayRoutes[i]
		if g.Target() == nil {
			continue
		}
		if g.Service = found[0]; g.Service == nil {
			r.problem(notFound(g.Key, "virtual service %s does not exist; the route answers 503 until it is created", names[0]))
		}
		names, found = names[1:], found[1:]
	}
}
