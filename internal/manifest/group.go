package manifest

import (
	"slices"

	"github.com/evermesh/evermesh/internal/document"
)

// backends adds the services of the node's backend groups to its backends, and
// tells of one that stands there twice, which the controller's webhook refuses.
// The group * is every service of its namespace.
func (c *converter) backends(spec map[string]any) {
	list, _ := spec["backends"].([]any)
	var have []string
	for i, b := range list {
		backend, _ := b.(map[string]any)
		service, _ := backend["virtualService"].(map[string]any)
		name, _ := service["virtualServiceName"].(string)
		if name == "" || name == "-" {
			continue
		}
		if slices.Contains(have, name) {
			c.fault(c.of.at(c.of.spec.Get("backends").Items[i]), "%s: the virtual service %s is a backend already", c.of, name)
		}
		have = append(have, name)
	}
	groups := c.of.spec.Get("backendGroups")
	if groups == nil {
		return
	}
	if groups.Kind != document.List {
		c.fault(c.of.at(groups), "%s: spec.backendGroups is no list", c.of)
		return
	}
	for _, ref := range groups.Items {
		for _, name := range c.group(ref) {
			if !slices.Contains(have, name) {
				have = append(have, name)
				list = append(list, map[string]any{"virtualService": map[string]any{"virtualServiceName": name}})
			}
		}
	}
	if list != nil {
		spec["backends"] = list
	}
}

// group is what a reference to a backend group stands for: services by their
// names in the API.
func (c *converter) group(ref *document.Node) []string {
	name, _ := ref.Get("name").Text()
	namespace, _ := ref.Get("namespace").Text()
	if namespace == "" {
		namespace = c.of.namespace
	}
	var out []string
	if name == "*" {
		for _, o := range c.objects {
			if o.kind == "VirtualService" && o.namespace == namespace {
				c.sameMesh(c.of, c.of.at(ref), o)
				out = append(out, o.awsName)
			}
		}
		return out
	}
	g := c.byID[id{kindBackendGroup, namespace, name}]
	if g == nil {
		c.fault(c.of.at(ref), "%s: BackendGroup %s/%s is in no file: add its manifest", c.of, namespace, name)
		return nil
	}
	c.sameMesh(c.of, c.of.at(ref), g)
	services := g.spec.Get("virtualservices")
	if services == nil || services.Kind != document.List {
		return nil
	}
	for _, s := range services.Items {
		if name := c.refer(g, s, "VirtualService"); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// checkGroup tells what is wrong with a backend group itself.
func (r *Reader) checkGroup(o *object) {
	if o.spec == nil {
		return
	}
	for _, m := range o.spec.Members {
		if !slices.Contains(beside[kindBackendGroup], m.Name) {
			r.unknown(o, m, "spec", beside[kindBackendGroup])
		}
	}
	if n := o.spec.Get("virtualservices"); n != nil && n.Kind != document.List {
		r.fault(o.at(n), "%s: spec.virtualservices is no list", o)
	}
}

// checkSelector tells what is wrong with a label selector.
func (r *Reader) checkSelector(o *object, member string) {
	n := o.spec.Get(member)
	if n == nil {
		return
	}
	path := "spec." + member
	if n.Kind != document.Object {
		r.fault(o.at(n), "%s: %s is no object", o, path)
		return
	}
	for _, m := range n.Members {
		switch m.Name {
		case "matchLabels":
			r.texts(o.File, n.Get(m.Name))
		case "matchExpressions":
			r.checkExpressions(o, n.Get(m.Name), path+"."+m.Name)
		default:
			r.unknown(o, m, path, []string{"matchExpressions", "matchLabels"})
		}
	}
}

func (r *Reader) checkExpressions(o *object, list *document.Node, path string) {
	if list == nil {
		return
	}
	if list.Kind != document.List {
		r.fault(o.at(list), "%s: %s is no list", o, path)
		return
	}
	for _, e := range list.Items {
		for _, m := range e.Members {
			if m.Name != "key" && m.Name != "operator" && m.Name != "values" {
				r.unknown(o, m, path, []string{"key", "operator", "values"})
			}
		}
		switch operator, _ := e.Get("operator").Text(); operator {
		case "In", "NotIn", "Exists", "DoesNotExist":
		default:
			r.fault(o.at(e), "%s: %s: want an operator of In, NotIn, Exists, DoesNotExist", o, path)
		}
	}
}
