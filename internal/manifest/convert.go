package manifest

import (
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/document"
)

// converter turns one object's spec into the spec of the API.
type converter struct {
	*Reader
	of     *object
	places map[string]Place
}

// convert makes an object's resources.
func (r *Reader) convert(o *object) {
	c := &converter{r, o, map[string]Place{}}
	if o.kind == kindBackendGroup {
		r.checkGroup(o)
		return
	}
	spec := c.structure(o.row.Type+"Spec", o.spec, "spec", "spec", beside[o.kind])
	doc := map[string]any{"meshName": o.mesh.name, "spec": spec}
	switch o.row.Kind {
	case api.KindMesh:
		if o.mesh.owner != "" {
			r.note(o.Place, "%s is account %s's: it is referred to, and not written; leave out spec.meshOwner if it is your own", o, o.mesh.owner)
			return
		}
		r.checkSelector(o, "namespaceSelector")
	case api.KindVirtualNode:
		c.backends(spec)
		r.checkSelector(o, "podSelector")
		_, discovered := spec["serviceDiscovery"]
		if listeners, _ := spec["listeners"].([]any); len(listeners) > 0 && !discovered {
			r.fault(o.Place, "%s has listeners and no serviceDiscovery: the controller wants both", o)
		}
	case api.KindVirtualGateway:
		for _, member := range []string{"podSelector", "namespaceSelector", "gatewayRouteSelector"} {
			r.checkSelector(o, member)
		}
	case api.KindGatewayRoute:
		gateway := r.gatewayOf(o)
		if gateway == "" {
			return
		}
		doc["virtualGatewayName"] = gateway
	}
	c.emit(o.row, o.awsName, doc, o.Place, "awsName")
	if o.row.Kind == api.KindVirtualRouter {
		c.routes()
	}
}

// emit adds a resource.
func (c *converter) emit(row api.KindRow, name string, doc map[string]any, at Place, named string) {
	doc[row.Name] = name
	if owner := c.of.mesh.owner; owner != "" {
		doc["meshOwner"] = owner
	}
	places := c.places
	places[row.Name] = at
	if n := c.of.spec.Get(named); n != nil {
		places[row.Name] = c.of.at(n)
	}
	c.out.Resources = append(c.out.Resources, Resource{at, row.Kind, doc, places})
}

// routes makes the routes that stand in a router. They keep their names.
func (c *converter) routes() {
	list := c.of.spec.Get("routes")
	if list == nil {
		return
	}
	if list.Kind != document.List {
		c.fault(c.of.at(list), "%s: spec.routes is no list", c.of)
		return
	}
	row, _ := api.KindRoute.Row()
	names := map[string]bool{}
	for i, item := range list.Items {
		at, path := c.of.at(item), fmt.Sprintf("spec.routes[%d]", i)
		if item.Kind != document.Object {
			c.fault(at, "%s: %s is no object", c.of, path)
			continue
		}
		name, _ := item.Get("name").Text()
		if name == "" {
			c.fault(at, "%s: %s has no name that is a text", c.of, path)
			continue
		}
		if names[name] {
			c.fault(at, "%s: there are two routes with the name %s", c.of, name)
			continue
		}
		names[name] = true
		one := &converter{c.Reader, c.of, map[string]Place{}}
		spec := one.structure("RouteSpec", item, path, "spec", besideRoute)
		doc := map[string]any{"meshName": c.of.mesh.name, "virtualRouterName": c.of.awsName, "spec": spec}
		one.emit(row, name, doc, at, "")
	}
}

// value turns a part of a manifest into that of the API, by the API's shape. What
// does not have the shape goes through as it is: the model refuses it, and its
// place is known. path is the part's as the manifest has it, place as a violation
// of the model has it.
func (c *converter) value(shape string, n *document.Node, path, place string) any {
	c.places[place] = c.of.at(n)
	s := c.model.Shapes[shape]
	switch {
	case s.Type == "structure" && n.Kind == document.Object:
		return c.structure(shape, n, path, place, nil)
	case s.Type == "list" && n.Kind == document.List:
		out := make([]any, len(n.Items))
		for i, item := range n.Items {
			out[i] = c.value(s.Member.Shape, item, fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%s.%d.member", place, i+1))
		}
		return out
	}
	return n.Any()
}

// structure turns an object into that of the API; beside are members that are
// none of it.
func (c *converter) structure(shape string, n *document.Node, path, place string, beside []string) map[string]any {
	out := map[string]any{}
	if n == nil {
		return out
	}
	s := c.model.Shapes[shape]
	names := memberNames(shape, s)
	reference, refers := references[shape]
	for _, m := range n.Members {
		member, ours := names[m.Name]
		switch {
		case ours && m.Value.Null(), slices.Contains(beside, m.Name):
		case ours && m.Value.Kind == document.List && len(m.Value.Items) == 0:
			// To the controller an empty list is as good as none.
		case ours:
			out[member] = c.value(s.Members[member].Shape, m.Value, path+"."+m.Name, place+"."+member)
		case refers && (m.Name == reference.ref || m.Name == reference.arn):
			c.reference(out, reference, m, place)
		case m.Name == "acm" && shape == listenerTrust:
			out[m.Name] = m.Value.Any() // the API says why not
		default:
			c.unknown(c.of, m, path, known(shape, names, beside))
		}
	}
	return out
}

// reference sets the member that names another resource.
func (c *converter) reference(out map[string]any, to reference, m document.Member, place string) {
	if m.Value.Null() {
		return
	}
	c.places[place+"."+to.member] = c.of.at(m.Value)
	if _, twice := out[to.member]; twice {
		c.fault(Place{c.of.File, m.Line, m.Column}, "%s: give %s or %s, not both", c.of, to.ref, to.arn)
		return
	}
	row, _ := to.kind.Row()
	var name string
	if m.Name == to.ref {
		name = c.refer(c.of, m.Value, row.Type)
	} else {
		name = c.fromARN(c.of, m.Value, to.kind)
	}
	if name == "" {
		name = "-" // a fault was told; the model is not to tell of it, too
	}
	out[to.member] = name
}
