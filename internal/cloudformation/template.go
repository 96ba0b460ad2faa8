// Package cloudformation reads CloudFormation templates as what they say of App
// Mesh: the inputs of create calls, as the AWS CLI takes them. It is no stack:
// it creates nothing, asks nobody, and resolves a template from its text and its
// Options alone, so that the same files give the same resources anywhere.
//
// Start with Parse. A template goes through four steps, a file each: node.go
// reads YAML or JSON as a tree with positions, section.go the sections around
// the resources, function.go puts values in the place of functions, and
// property.go turns the properties of a resource into the members of the API.
//
// What is not known here (an attribute of a load balancer, a parameter without a
// value) is a fault only where an App Mesh resource needs it: the rest of a
// template may be about anything.
package cloudformation

import (
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// Options is what a stack would know beside its template.
type Options struct {
	// Parameters are the values of the template's parameters. A list is one text
	// with commas. A parameter of an SSM type takes the value itself, not the name
	// that it has in SSM. They also hold what else is not known here: LoadBalancer
	// for what Ref gives for another resource, LoadBalancer.DNSName for its
	// attribute, AWS::AccountId when Account is empty.
	Parameters map[string]string
	// Imports are the values of Fn::ImportValue by the name of the export.
	Imports map[string]string
	// Partition, Region and Account are those of ARNs, and of the pseudo
	// parameters. One that is empty is not known.
	Partition, Region, Account string
	// Stack is AWS::StackName, and begins the names of resources that have none.
	Stack string
}

// Template is what a template says of App Mesh.
type Template struct {
	// Resources are its App Mesh resources, in the order of the template; those
	// with a fault are left out.
	Resources []Resource
	// Skipped are its other resources and those whose condition is false, in the
	// order of the template.
	Skipped []Skipped
	// Outputs are its outputs, in the order of the template.
	Outputs []Output
	// Takes are the names that Options.Parameters may have for this template: its
	// parameters, and what else it refers to and does not make. Sorted.
	Takes []string
}

// Resource is an App Mesh resource of a template.
type Resource struct {
	Position
	LogicalID string
	Kind      api.Kind
	// Doc is the input of its create call, checked against the model.
	Doc map[string]any

	places map[string]place
}

// place is where a member of an input stands in the template, and its name there.
type place struct {
	at   Position
	path string
}

// At is where a member of the resource's input stands in the template, and its
// path there. The path asked for is AWS's, as in model.Violation; what is not in
// the template stands where the part of it does that is.
func (r Resource) At(path string) (at Position, property string) {
	at, property = r.Position, "Resources."+r.LogicalID
	for p := path; ; p = parentPath(p) {
		if found, ok := r.places[p]; ok {
			return found.at, found.path
		}
		if p == "" {
			return at, property
		}
	}
}

// Skipped is a resource of a template that is not applied.
type Skipped struct {
	Position
	LogicalID string
	// Type is its type, such as AWS::ECS::Service.
	Type string
	// Name is the name of a Cloud Map resource; empty for others, and when it is
	// not known.
	Name string
	// Why is the reason, as the end of a sentence.
	Why string
}

// String says it in a line.
func (s Skipped) String() string {
	name := ""
	if s.Name != "" {
		name = " " + s.Name
	}
	return fmt.Sprintf("%s: Resources.%s (%s%s): not applied: %s", s.Position, s.LogicalID, s.Type, name, s.Why)
}

// Output is an output of a template.
type Output struct {
	Position
	Name string
	// Value is its value, when Unknown is empty; **** when it is made of a
	// parameter with NoEcho.
	Value string
	// Unknown says why the value is not known.
	Unknown string
	// Export is the name under which other templates import it; empty for most,
	// and when Value is not the value.
	Export string
}

// Parse reads a template. name is its file's, for positions. There may be a
// template beside the faults, which holds the resources that none is about.
// Faults come in the order of the template, each
// once, and not more than 200.
func Parse(name string, data []byte, o Options) (Template, []Fault) {
	m, err := model.AppMesh()
	if err != nil {
		return Template{}, []Fault{{Position: Position{File: name}, Text: err.Error()}}
	}
	return parse(m, name, data, o)
}

func parse(m *model.Model, name string, data []byte, o Options) (Template, []Fault) {
	var faults faults
	root, ok := read(name, data, &faults)
	if !ok {
		return Template{}, faults.sorted()
	}
	s := newStack(m, o, &faults)
	s.sections(root)
	var out Template
	for _, r := range s.resources {
		if skipped, why := s.skips(r); why != "" {
			out.Skipped = append(out.Skipped, skipped)
			continue
		}
		s.dependencies(r)
		if resource, ok := s.resource(r); ok {
			out.Resources = append(out.Resources, resource)
		}
	}
	out.Outputs = s.outputs()
	out.Takes = keys(s.takes)
	return out, faults.sorted()
}

// parentPath is the AWS path of what a path's last part is in; a list's item is
// in the list.
func parentPath(path string) string {
	if list, ok := strings.CutSuffix(path, ".member"); ok {
		path = list
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}
