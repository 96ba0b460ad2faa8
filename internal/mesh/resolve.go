package mesh

import (
	"fmt"
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
	r := resolver{
		reader: s, client: c.Key, seen: map[Problem]bool{},
		nodes: map[string]*api.Resource{}, services: map[string]*Service{}, routers: map[string]*Router{},
	}
	v := &View{Client: c}
	own := r.get(c.Key)
	switch {
	case own == nil:
		return nil, nil, r.reads
	case c.Key.Kind == api.KindVirtualNode && own.VirtualNodeSpec() != nil:
		v.Node = own
	case c.Key.Kind == api.KindVirtualGateway && own.VirtualGatewaySpec() != nil:
		v.Gateway = own
	default:
		return nil, nil, r.reads
	}
	if v.Mesh = r.get(c.Key.MeshKey()); v.Mesh == nil {
		r.problem(c.Key, "mesh %s does not exist: create it; until then its defaults hold", c.Key.Mesh)
	}
	if v.Node != nil {
		r.node(v)
	} else {
		r.gateway(v)
	}
	v.trace = r.trace
	return v, r.problems, r.reads
}

// resolver reads what a view needs, each resource once, and keeps note.
type resolver struct {
	reader   Reader
	client   api.Key
	reads    Reads
	trace    []*api.Resource
	problems []Problem
	seen     map[Problem]bool

	nodes    map[string]*api.Resource
	services map[string]*Service
	routers  map[string]*Router
}

func (r *resolver) get(key api.Key) *api.Resource {
	found := r.reader.Get(key)
	r.reads.keys = append(r.reads.keys, key)
	r.trace = append(r.trace, found)
	return found
}

func (r *resolver) list(kind api.Kind, parent api.Key) []*api.Resource {
	found := r.reader.List(kind, parent)
	r.reads.ranges = append(r.reads.ranges, keyRange{kind, parent})
	r.trace = append(append(r.trace, found...), nil)
	return found
}

func (r *resolver) problem(key api.Key, format string, args ...any) {
	p := Problem{Key: key, Reason: ReasonNotFound, Message: fmt.Sprintf(format, args...)}
	if !r.seen[p] {
		r.seen[p] = true
		r.problems = append(r.problems, p)
	}
}

func (r *resolver) node(v *View) {
	backends := v.Node.VirtualNodeSpec().Backends
	for i := range backends {
		b := backends[i].VirtualService
		if b == nil {
			continue
		}
		name, ok := r.serviceName(b.VirtualServiceName)
		if !ok {
			r.problem(r.client, "spec.backends[%d].virtualService.virtualServiceName: %s is no virtual service of this mesh; the backend is ignored", i, b.VirtualServiceName)
			continue
		}
		service := r.service(name)
		if service == nil {
			r.problem(r.client, "spec.backends[%d]: virtual service %s does not exist; the backend is ignored until it is created", i, name)
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
	if err != nil || arn.Kind != api.KindVirtualService || arn.Mesh != r.client.Mesh {
		return "", false
	}
	return arn.Name, true
}

func (r *resolver) gateway(v *View) {
	for _, route := range r.list(api.KindGatewayRoute, r.client) {
		g := GatewayRoute{Resource: route}
		if t := g.Target(); t != nil {
			name := t.VirtualService.VirtualServiceName
			if g.Service = r.service(name); g.Service == nil {
				r.problem(route.Key, "virtual service %s does not exist; the route answers 503 until it is created", name)
			}
		}
		v.GatewayRoutes = append(v.GatewayRoutes, g)
	}
}

func (r *resolver) service(name string) *Service {
	if s, ok := r.services[name]; ok {
		return s
	}
	key := r.client.In(api.KindVirtualService, "", name)
	found := r.get(key)
	if found == nil || found.VirtualServiceSpec() == nil {
		r.services[name] = nil
		return nil
	}
	s := &Service{Resource: found}
	r.services[name] = s
	provider := found.VirtualServiceSpec().Provider
	switch {
	case provider == nil:
	case provider.VirtualRouter != nil:
		if s.Router = r.router(provider.VirtualRouter.VirtualRouterName); s.Router == nil {
			r.problem(key, "virtual router %s does not exist; the service cannot be reached until it is created", provider.VirtualRouter.VirtualRouterName)
		}
	case provider.VirtualNode != nil:
		if s.Node = r.target(provider.VirtualNode.VirtualNodeName); s.Node == nil {
			r.problem(key, "virtual node %s does not exist; the service cannot be reached until it is created", provider.VirtualNode.VirtualNodeName)
		}
	}
	return s
}

func (r *resolver) router(name string) *Router {
	if x, ok := r.routers[name]; ok {
		return x
	}
	key := r.client.In(api.KindVirtualRouter, "", name)
	found := r.get(key)
	if found == nil || found.VirtualRouterSpec() == nil {
		r.routers[name] = nil
		return nil
	}
	router := &Router{Resource: found}
	r.routers[name] = router
	for _, route := range r.list(api.KindRoute, key) {
		x := Route{Resource: route}
		for _, t := range x.WeightedTargets() {
			node := r.target(t.VirtualNode)
			if node == nil {
				r.problem(route.Key, "virtual node %s does not exist; its share of the traffic goes to the route's other targets, or is answered 503 when there are none", t.VirtualNode)
			}
			x.Targets = append(x.Targets, node)
		}
		router.Routes = append(router.Routes, x)
	}
	return router
}

func (r *resolver) target(name string) *api.Resource {
	if n, ok := r.nodes[name]; ok {
		return n
	}
	n := r.get(r.client.In(api.KindVirtualNode, "", name))
	if n.VirtualNodeSpec() == nil {
		n = nil
	}
	r.nodes[name] = n
	return n
}
