package manifest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/document"
	"github.com/evermesh/evermesh/internal/model"
)

// group is the API group of the manifests, version that of their form.
const (
	group   = "appmesh.k8s.aws"
	version = "v1beta2"
)

// kindBackendGroup is a list of services that nodes share. It has no counterpart
// in App Mesh's API: nodes have its services as backends.
const kindBackendGroup = "BackendGroup"

// object is a manifest.
type object struct {
	Place
	kind      string // Mesh, …
	row       api.KindRow
	namespace string // empty for a Mesh
	name      string
	labels    map[string]string
	spec      *document.Node // nil when it has none
	node      *document.Node

	awsName string
	mesh    meshName // what it is in; of a Mesh, what it is
}

// meshName is a mesh as the API's calls name it.
type meshName struct{ name, owner string }

// id is what an object is found by.
type id struct{ kind, namespace, name string }

func (o *object) id() id { return id{o.kind, o.namespace, o.name} }

func (o *object) at(n *document.Node) Place { return Place{o.File, n.Line, n.Column} }

// String names the object as kubectl does, with its namespace.
func (o *object) String() string {
	if o.namespace == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// Reader collects manifests. Its zero value is ready.
type Reader struct {
	files      []string // in the order in which they were added
	objects    []*object
	byID       map[id]*object
	namespaces map[string]map[string]string // labels of those that are in the files
	meshes     []*object                    // of objects
	gateways   []*object
	model      *model.Model
	assumed    map[id]bool // told already
	out        Result
}

// Is says whether a document is a Kubernetes object, whatever its kind.
func Is(n *document.Node) bool {
	_, versioned := n.Get("apiVersion").Text()
	_, kind := n.Get("kind").Text()
	return versioned && kind
}

// Add reads a file. What is wrong with it is told by Resolve.
func (r *Reader) Add(name string, text []byte) {
	r.files = append(r.files, name)
	all, err := document.Read(text)
	if err != nil {
		at := Place{File: name}
		if e, ok := errors.AsType[*document.Error](err); ok {
			at.Line, at.Column = e.Line, e.Column
		}
		message := "not valid YAML: " + err.Error()
		if strings.Contains(string(text), "{{") {
			message += document.Rendered
		}
		r.out.Faults = append(r.out.Faults, Remark{at, message})
		return
	}
	for _, n := range all {
		r.document(name, n)
	}
}

func (r *Reader) fault(at Place, format string, args ...any) {
	r.out.Faults = append(r.out.Faults, Remark{at, fmt.Sprintf(format, args...)})
}

func (r *Reader) note(at Place, format string, args ...any) {
	r.out.Notes = append(r.out.Notes, Remark{at, fmt.Sprintf(format, args...)})
}

// document reads an object, or a list of them.
func (r *Reader) document(file string, n *document.Node) {
	at := Place{file, n.Line, n.Column}
	if n.Kind == document.List {
		for _, item := range n.Items {
			r.document(file, item)
		}
		return
	}
	if !Is(n) {
		r.fault(at, "is no Kubernetes object: want apiVersion and kind")
		return
	}
	apiVersion, _ := n.Get("apiVersion").Text()
	kind, _ := n.Get("kind").Text()
	if items := n.Get("items"); strings.HasSuffix(kind, "List") && items != nil && items.Kind == document.List {
		for _, item := range items.Items {
			r.document(file, item)
		}
		return
	}
	o := &object{Place: at, kind: kind, node: n}
	metadata := n.Get("metadata")
	o.name, _ = metadata.Get("name").Text()
	o.namespace, _ = metadata.Get("namespace").Text()
	o.labels = r.texts(file, metadata.Get("labels"))
	if of, v, _ := strings.Cut(apiVersion, "/"); of == group && v != version {
		r.fault(at, "%s is of %s: only %s/%s is read, write it in that form", o, apiVersion, group, version)
		return
	}
	switch {
	case !strings.HasPrefix(apiVersion, group+"/"):
		r.foreign(apiVersion, o)
	case o.name == "":
		r.fault(at, "%s has no metadata.name that is a text", kind)
	default:
		r.ours(o)
	}
}

// foreign skips an object that is not App Mesh's. A Namespace is read for its
// labels.
func (r *Reader) foreign(apiVersion string, o *object) {
	if apiVersion == "v1" && o.kind == "Namespace" {
		if r.namespaces == nil {
			r.namespaces = map[string]map[string]string{}
		}
		// Kubernetes sets this label on every namespace.
		o.labels["kubernetes.io/metadata.name"] = o.name
		r.namespaces[o.name] = o.labels
		return
	}
	r.out.Skipped = append(r.out.Skipped, Skipped{o.Place, o.kind, o.namespace, o.name})
}

// ours keeps an object of App Mesh's group.
func (r *Reader) ours(o *object) {
	for _, row := range api.Kinds() {
		if row.Type == o.kind && row.Kind != api.KindRoute {
			o.row = row
		}
	}
	if o.row.Kind == "" && o.kind != kindBackendGroup {
		r.fault(o.Place, "%s is of no kind that App Mesh's controller knows: want Mesh, VirtualNode, VirtualRouter, VirtualService, VirtualGateway, GatewayRoute or BackendGroup", o)
		return
	}
	if o.row.Kind == api.KindMesh {
		o.namespace = "" // it is the cluster's
	} else if o.namespace == "" {
		o.namespace = "default"
	}
	for _, m := range o.node.Members {
		switch m.Name {
		case "apiVersion", "kind", "metadata", "spec", "status":
		default:
			r.unknown(o, m, "", []string{"apiVersion", "kind", "metadata", "spec"})
		}
	}
	o.spec = o.node.Get("spec")
	if o.spec != nil && o.spec.Kind != document.Object {
		r.fault(o.at(o.spec), "the spec of %s is no object", o)
		o.spec = nil
	}
	if first := r.byID[o.id()]; first != nil {
		r.fault(o.Place, "%s is in %s already: remove one of them", o, first.Place)
		return
	}
	if r.byID == nil {
		r.byID = map[id]*object{}
	}
	r.byID[o.id()] = o
	r.objects = append(r.objects, o)
}

// unknown tells of a member that the controller's definitions do not have.
// Kubernetes removes such members, so that manifests with some are in use.
func (r *Reader) unknown(o *object, m document.Member, path string, known []string) {
	name := strings.TrimPrefix(path+"."+m.Name, ".")
	advice := "remove it, or choose from " + strings.Join(known, ", ")
	for _, k := range known {
		if strings.EqualFold(k, m.Name) {
			advice = fmt.Sprintf("it is written %q", k)
		}
	}
	r.note(Place{o.File, m.Line, m.Column}, "%s: %s is not a member that App Mesh's controller knows, and is ignored: %s", o, name, advice)
}

// texts reads an object of texts, such as labels.
func (r *Reader) texts(file string, n *document.Node) map[string]string {
	out := map[string]string{}
	if n == nil {
		return out
	}
	if n.Kind != document.Object {
		r.fault(Place{file, n.Line, n.Column}, "is no object of texts")
		return out
	}
	for _, m := range n.Members {
		text, ok := m.Value.Text()
		if !ok && !m.Value.Null() {
			r.fault(Place{file, m.Value.Line, m.Value.Column}, "the value of %s is no text: put it in quotes", m.Name)
		}
		out[m.Name] = text
	}
	return out
}
