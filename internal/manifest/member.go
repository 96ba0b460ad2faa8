package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/document"
	"github.com/evermesh/evermesh/internal/model"
)

// Resolve makes the resources of all that was added; m is the model of App Mesh's
// API. It is called once.
func (r *Reader) Resolve(m *model.Model, o Options) Result {
	r.model = m
	for _, x := range r.objects {
		x.awsName = r.awsName(x)
	}
	for _, x := range r.objects {
		if x.row.Kind == api.KindMesh {
			owner, _ := x.spec.Get("meshOwner").Text()
			x.mesh = meshName{x.awsName, owner}
			r.meshes = append(r.meshes, x)
		}
		if x.row.Kind == api.KindVirtualGateway {
			r.gateways = append(r.gateways, x)
		}
	}
	for _, x := range r.objects {
		if x.row.Kind != api.KindMesh {
			x.mesh = r.meshOf(x, o)
		}
	}
	for _, x := range r.objects {
		if x.mesh.name != "" {
			r.convert(x)
		}
	}
	for _, remarks := range [][]Remark{r.out.Notes, r.out.Faults} {
		slices.SortStableFunc(remarks, func(a, b Remark) int {
			return cmp.Or(slices.Index(r.files, a.File)-slices.Index(r.files, b.File), a.Line-b.Line, a.Column-b.Column)
		})
	}
	return r.out
}

// awsName is an object's name in the API: spec.awsName, or what the controller's
// webhook sets when that is absent or empty.
func (r *Reader) awsName(o *object) string {
	n := o.spec.Get("awsName")
	name, ok := n.Text()
	if n != nil && !ok {
		r.fault(o.at(n), "spec.awsName of %s is no text", o)
	}
	if name != "" {
		return name
	}
	return defaultName(o.id())
}

// defaultName is the name in the API of an object without awsName.
func defaultName(i id) string {
	switch i.kind {
	case "Mesh":
		return i.name
	case "VirtualService":
		return i.name + "." + i.namespace
	}
	return i.name + "_" + i.namespace
}

// meshOf is the mesh that an object is in: the one that its spec or the caller
// names, else the Mesh whose selector takes the labels of the object's namespace.
// In files whose namespaces are in none of them, the only Mesh is meant. An empty
// name means that a fault was told.
func (r *Reader) meshOf(o *object, options Options) meshName {
	all := r.meshes
	named := func(name string) meshName {
		for _, m := range all {
			if m.awsName == name {
				return m.mesh
			}
		}
		return meshName{name: name}
	}
	if options.Mesh != "" {
		return named(options.Mesh)
	}
	if ref := o.spec.Get("meshRef"); ref != nil {
		name, _ := ref.Get("name").Text()
		if name == "" {
			r.fault(o.at(ref), "%s: spec.meshRef has no name", o)
			return meshName{}
		}
		if m := r.byID[id{"Mesh", "", name}]; m != nil {
			return m.mesh
		}
		r.assume(o.at(ref), id{"Mesh", "", name}, name)
		return meshName{name: name}
	}
	if len(all) == 0 {
		r.fault(o.Place, "%s is in no mesh: name it with --mesh, or add the Mesh manifest", o)
		return meshName{}
	}
	labels, known := r.namespaces[o.namespace]
	var found []*object
	for _, m := range all {
		if r.selects(m, "namespaceSelector", labels, known, len(all) == 1) {
			found = append(found, m)
		}
	}
	if len(found) == 1 {
		return found[0].mesh
	}
	advice := "correct the labels of the namespace, or a mesh's namespaceSelector"
	if !known {
		advice = "name it with --mesh, or add the Namespace manifest with its labels"
	}
	r.fault(o.Place, "%s: failed to find matching mesh for namespace: %s, expecting 1 but found %d: %s", o, o.namespace, len(found), advice)
	return meshName{}
}

// selects says whether the selector that an object has as member of its spec
// takes these labels. A selector that is absent takes none, an empty one takes
// all, as in the controller. Where the labels are not known, it takes what no
// other could: when only is set.
func (r *Reader) selects(o *object, member string, labels map[string]string, known, only bool) bool {
	n := o.spec.Get(member)
	switch {
	case !known && only:
		return true
	case n == nil:
		return false
	case !known:
		return n.Kind == document.Object && len(n.Members) == 0
	}
	return r.takes(o, n, labels)
}

// takes says whether a label selector takes the labels. A part of it that cannot
// be read takes none; unknown members are told once, by convert.
func (r *Reader) takes(o *object, selector *document.Node, labels map[string]string) bool {
	if wanted := selector.Get("matchLabels"); wanted != nil {
		for _, m := range wanted.Members {
			text, ok := m.Value.Text()
			if have, set := labels[m.Name]; !ok || !set || have != text {
				return false
			}
		}
	}
	expressions := selector.Get("matchExpressions")
	if expressions == nil {
		return true
	}
	for _, e := range expressions.Items {
		key, _ := e.Get("key").Text()
		operator, _ := e.Get("operator").Text()
		var values []string
		if list := e.Get("values"); list != nil {
			for _, v := range list.Items {
				text, _ := v.Text()
				values = append(values, text)
			}
		}
		have, set := labels[key]
		holds := false
		switch operator {
		case "In":
			holds = set && slices.Contains(values, have)
		case "NotIn":
			holds = !set || !slices.Contains(values, have)
		case "Exists":
			holds = set
		case "DoesNotExist":
			holds = !set
		}
		if !holds {
			return false
		}
	}
	return true
}

// gatewayOf is the gateway, by its name in the API, that a gateway route is of:
// the one that it names, or the one whose selectors take it. An empty name means
// that a fault was told.
func (r *Reader) gatewayOf(o *object) string {
	if ref := o.spec.Get("virtualGatewayRef"); ref != nil {
		return r.refer(o, ref, "VirtualGateway")
	}
	labels, known := r.namespaces[o.namespace]
	all := r.gateways
	var found []*object
	for _, g := range all {
		if !r.selects(g, "namespaceSelector", labels, known, len(all) == 1) {
			continue
		}
		if n := g.spec.Get("gatewayRouteSelector"); n == nil || r.takes(g, n, o.labels) {
			found = append(found, g)
		}
	}
	if len(found) != 1 {
		advice := "correct the selectors of the gateways, or the labels of the namespace and the route"
		switch {
		case len(all) == 0:
			advice = "add the VirtualGateway manifest, or spec.virtualGatewayRef"
		case !known:
			advice = "add the Namespace manifest with its labels, or spec.virtualGatewayRef"
		}
		r.fault(o.Place, "%s: failed to find matching virtualGateway for gatewayRoute: %s, expecting 1 but found %d: %s", o, o.name, len(found), advice)
		return ""
	}
	r.sameMesh(o, o.Place, found[0])
	return found[0].awsName
}

// refer resolves a reference by name and namespace to a name in the API. An
// object that is in no file is taken to have no awsName, and that is told, once.
func (r *Reader) refer(o *object, ref *document.Node, kind string) string {
	if ref.Kind != document.Object {
		r.fault(o.at(ref), "%s: a reference is an object with a name", o)
		return ""
	}
	i := id{kind: kind, namespace: o.namespace}
	for _, m := range ref.Members {
		text, ok := m.Value.Text()
		switch {
		case m.Name == "uid" || m.Name == "namespace" && m.Value.Null():
			continue
		case m.Name != "name" && m.Name != "namespace":
			r.unknown(o, m, strings.ToLower(kind[:1])+kind[1:]+"Ref", []string{"name", "namespace"})
			continue
		case !ok:
			r.fault(o.at(m.Value), "%s: the %s of a reference is no text", o, m.Name)
			return ""
		}
		if m.Name == "name" {
			i.name = text
		} else if text != "" {
			i.namespace = text
		}
	}
	if i.name == "" {
		r.fault(o.at(ref), "%s: a reference to a %s has no name", o, kind)
		return ""
	}
	if to := r.byID[i]; to != nil {
		r.sameMesh(o, o.at(ref), to)
		return to.awsName
	}
	r.assume(o.at(ref), i, defaultName(i))
	return defaultName(i)
}

// sameMesh tells of a reference into another mesh, which the controller does not
// follow.
func (r *Reader) sameMesh(o *object, at Place, to *object) {
	if to.mesh.name != "" && to.mesh != o.mesh {
		r.fault(at, "%s is in the mesh %s, but %s in %s: references stay within a mesh", o, o.mesh.name, to, to.mesh.name)
	}
}

// assume tells, once, of an object that others refer to and no file has.
func (r *Reader) assume(at Place, i id, name string) {
	if r.assumed[i] {
		return
	}
	if r.assumed == nil {
		r.assumed = map[id]bool{}
	}
	r.assumed[i] = true
	whose := ""
	if i.namespace != "" {
		whose = i.namespace + "/"
	}
	r.note(at, "%s %s%s is in no file, and taken to be %s in the API: add its manifest if it has another awsName", i.kind, whose, i.name, name)
}

// fromARN is the name in an ARN of that kind, as the controller reads it: it does
// not look at the mesh.
func (r *Reader) fromARN(o *object, n *document.Node, kind api.Kind) string {
	text, ok := n.Text()
	if ok {
		a, err := api.ParseARN(text)
		if err == nil && a.Kind == kind {
			return a.Name
		}
	}
	r.fault(o.at(n), "%s: want the ARN of a %s", o, fmt.Sprint(kind))
	return ""
}
