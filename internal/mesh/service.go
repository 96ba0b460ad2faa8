package mesh

import (
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// service resolves a service, whoever calls it; nil when it does not exist.
func (t *tables) service(mesh api.Key, name string) *Service {
	found := t.get(services, "", name)
	if found.VirtualServiceSpec() == nil {
		return nil
	}
	s := &Service{Resource: found}
	switch provider := found.VirtualServiceSpec().Provider; {
	case provider == nil:
	case provider.VirtualRouter != nil:
		name := provider.VirtualRouter.VirtualRouterName
		if found := t.get(routers, "", name); found.VirtualRouterSpec() != nil {
			s.router(t, found)
		} else {
			s.problem(s.Key, "virtual router %s does not exist; the service cannot be reached until it is created", name)
		}
	case provider.VirtualNode != nil:
		name := provider.VirtualNode.VirtualNodeName
		if s.Node = t.target(name); s.Node == nil {
			s.problem(s.Key, "virtual node %s does not exist; the service cannot be reached until it is created", name)
		}
	}
	return s
}

func (s *Service) router(t *tables, found *api.Resource) {
	list := t.kinds[routes].list(found.Key.Name)
	s.Router = &Router{Resource: found, Routes: make([]Route, 0, len(list))}
	for _, route := range list {
		x := Route{Resource: route}
		for _, to := range x.WeightedTargets() {
			node := t.target(to.VirtualNode)
			if node == nil {
				s.problem(route.Key, "virtual node %s does not exist; its share of the traffic goes to the route's other targets, or is answered 503 when there are none", to.VirtualNode)
			}
			x.Targets = append(x.Targets, node)
		}
		s.Router.Routes = append(s.Router.Routes, x)
	}
}

// target is the node that traffic goes to, or nil.
func (t *tables) target(name string) *api.Resource {
	n := t.get(nodes, "", name)
	if n.VirtualNodeSpec() == nil {
		return nil
	}
	return n
}

func (s *Service) problem(key api.Key, format string, args ...any) {
	p := notFound(key, format, args...)
	if !slices.Contains(s.problems, p) {
		s.problems = append(s.problems, p)
	}
}

func notFound(key api.Key, format string, args ...any) Problem {
	return Problem{Key: key, Reason: ReasonNotFound, Message: fmt.Sprintf(format, args...)}
}

// holds says whether the tables resolve the service to what it is. It was so
// when their stamp was then; what is the same table is not looked at.
func (s *Service) holds(t *tables, then, now stamp) bool {
	if then[0] != now[0] && t.get(services, "", s.Key.Name) != s.Resource {
		return false
	}
	sameTarget := func(name string, node *api.Resource) bool {
		return then[3] == now[3] || t.target(name) == node
	}
	provider := s.VirtualServiceSpec().Provider
	switch {
	case provider == nil:
		return true
	case provider.VirtualRouter == nil:
		return provider.VirtualNode == nil || sameTarget(provider.VirtualNode.VirtualNodeName, s.Node)
	case s.Router == nil:
		return then[1] == now[1] || t.get(routers, "", provider.VirtualRouter.VirtualRouterName).VirtualRouterSpec() == nil
	case then[1] != now[1] && t.get(routers, "", s.Router.Key.Name) != s.Router.Resource:
		return false
	}
	list := t.kinds[routes].list(s.Router.Key.Name)
	if then[2] != now[2] && !slices.EqualFunc(s.Router.Routes, list, func(x Route, r *api.Resource) bool { return x.Resource == r }) {
		return false
	}
	if then[3] == now[3] {
		return true
	}
	for _, x := range s.Router.Routes {
		for i, to := range x.WeightedTargets() {
			if !sameTarget(to.VirtualNode, x.Targets[i]) {
				return false
			}
		}
	}
	return true
}

// Same says whether two services were resolved from the same resources, compared
// by pointer. Mostly they are the very same service; both may be nil.
func (s *Service) Same(o *Service) bool {
	switch {
	case s == o:
		return true
	case s == nil || o == nil || s.Resource != o.Resource || s.Node != o.Node:
		return false
	case s.Router == nil || o.Router == nil:
		return s.Router == o.Router
	}
	return s.Router.Resource == o.Router.Resource && slices.EqualFunc(s.Router.Routes, o.Router.Routes, func(x, y Route) bool {
		return x.Resource == y.Resource && slices.Equal(x.Targets, y.Targets)
	})
}

// reads calls the functions with every key and range of keys that the service
// was resolved from, also where nothing was found. A key may come twice.
func (s *Service) reads(key func(api.Key), keys func(keyRange)) {
	key(s.Key)
	switch provider := s.VirtualServiceSpec().Provider; {
	case provider == nil:
	case provider.VirtualRouter != nil:
		router := s.Key.In(api.KindVirtualRouter, "", provider.VirtualRouter.VirtualRouterName)
		if key(router); s.Router == nil {
			return
		}
		keys(keyRange{api.KindRoute, router})
		for _, x := range s.Router.Routes {
			for _, to := range x.WeightedTargets() {
				key(s.Key.In(api.KindVirtualNode, "", to.VirtualNode))
			}
		}
	case provider.VirtualNode != nil:
		key(s.Key.In(api.KindVirtualNode, "", provider.VirtualNode.VirtualNodeName))
	}
}
