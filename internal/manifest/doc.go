// Package manifest reads Kubernetes manifests of the group
// appmesh.k8s.aws/v1beta2 as the inputs of the API calls that AWS's App Mesh
// controller would make of them: names and references as it resolves them, field
// names as the API has them. There is no cluster behind a file, so what the
// controller asks the cluster for (which mesh a namespace is in, what another
// object's awsName is) follows from the other manifests, and from Options.
//
// Start with Reader: Add takes one file after the other, Resolve makes the
// resources once all are known, as manifests refer to each other across files.
// The package does not check values; whoever takes the resources holds them
// against the model of the API, as with any other input.
package manifest

import (
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Options are what the files do not say.
type Options struct {
	// Mesh is the mesh, by its name in the API, that all objects are in, whatever
	// the selectors of Mesh manifests say; empty to go by these.
	Mesh string
}

// Place is where something stands in a file. Line and Column, from 1, are 0
// where they are not known.
type Place struct {
	File         string
	Line, Column int
}

// String is FILE:LINE:COLUMN.
func (p Place) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Resource is the input of the call that creates a resource.
type Resource struct {
	Place
	Kind api.Kind
	// Doc has the members meshName, the kind's name member, spec, and meshOwner
	// where the Mesh manifest has one.
	Doc map[string]any

	places map[string]Place // of the parts of Doc
}

// At is where the part of Doc with that path stands: a path of
// model.Violation, such as spec.listeners.1.member.portMapping. Of a part that
// does not stand anywhere it is the place of what should hold it.
func (r Resource) At(path string) Place {
	for path != "" {
		if p, ok := r.places[path]; ok {
			return p
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return r.Place
}

// Skipped is an object that makes no resource: of a kind that is not App Mesh's.
type Skipped struct {
	Place
	Kind, Namespace, Name string
}

// String says what was skipped.
func (s Skipped) String() string {
	name := s.Name
	if s.Namespace != "" {
		name = s.Namespace + "/" + name
	}
	return strings.TrimSpace(fmt.Sprintf("%s: skipped %s %s", s.Place, s.Kind, name))
}

// Remark is something to be said about a place.
type Remark struct {
	Place
	Message string
}

// String is the remark on one line.
func (r Remark) String() string { return r.Place.String() + ": " + r.Message }

// Result is what manifests come to.
type Result struct {
	// Resources stand in the order of the files; the routes of a router follow it.
	Resources []Resource
	Skipped   []Skipped
	// Notes say what was taken for granted; Faults are what must be corrected.
	Notes, Faults []Remark
}
