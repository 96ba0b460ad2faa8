// Package model holds the APIs as data. appmesh.json is the public service model
// of App Mesh without its prose; evermesh.json describes Evermesh's own operations
// in the same language; the others are of the services around a mesh, cut by
// command subset to the operations that it needs. Everything that follows from a model is
// derived from it, never typed again: gen writes the Go types of package api,
// Check validates a request by walking the shapes, and package rest binds a
// request to an operation by their locations.
//
// Start with Model, then Check.
package model

import (
	"embed"
	"encoding/json"
	"fmt"
	"regexp"
)

// Model is one service: its operations and the shapes they are made of.
type Model struct {
	Metadata   Metadata              `json:"metadata"`
	Operations map[string]*Operation `json:"operations"`
	Shapes     map[string]*Shape     `json:"shapes"`
}

// Metadata names the service and how it is signed.
type Metadata struct {
	APIVersion     string `json:"apiVersion"`
	EndpointPrefix string `json:"endpointPrefix"`
	Protocol       string `json:"protocol"`
	// Protocols are all that the service speaks, Protocol first; empty for that
	// alone.
	Protocols   []string `json:"protocols"`
	JSONVersion string   `json:"jsonVersion"`
	// TargetPrefix stands before the operation in X-Amz-Target.
	TargetPrefix string `json:"targetPrefix"`
	XMLNamespace string `json:"xmlNamespace"`
	ServiceID    string `json:"serviceId"`
	SigningName  string `json:"signingName"`
}

// Operation is one call of the service.
type Operation struct {
	Name   string `json:"name"`
	HTTP   HTTP   `json:"http"`
	Input  Ref    `json:"input"`  // without shape: none
	Output Ref    `json:"output"` // without shape: none
	Errors []Ref  `json:"errors"`
}

// HTTP says how an operation is reached. RequestURI is a template such as
// /v20190125/meshes/{meshName}, and a valid pattern of http.ServeMux.
type HTTP struct {
	Method       string `json:"method"`
	RequestURI   string `json:"requestUri"`
	ResponseCode int    `json:"responseCode"`
}

// Ref points to a shape; Location ("uri", "querystring" or empty for the body)
// and LocationName say where a member of an input travels.
type Ref struct {
	Shape            string `json:"shape"`
	Location         string `json:"location"`
	LocationName     string `json:"locationName"`
	IdempotencyToken bool   `json:"idempotencyToken"`
	// ResultWrapper is the element around an answer in the protocol query.
	ResultWrapper string `json:"resultWrapper"`
}

// Shape is a type: a structure, list, map, string, integer, long, double, boolean,
// blob or timestamp, with its constraints.
type Shape struct {
	Type     string         `json:"type"`
	Members  map[string]Ref `json:"members"`
	Required []string       `json:"required"`
	Payload  string         `json:"payload"`
	Union    bool           `json:"union"`
	Member   *Ref           `json:"member"`
	Key      *Ref           `json:"key"` // of a map
	Value    *Ref           `json:"value"`
	Enum     []string       `json:"enum"`
	Min      *int64         `json:"min"`
	Max      *int64         `json:"max"`
	Pattern  string         `json:"pattern"`
	Error    *ErrorTrait    `json:"error"`
	// Exception says that it is an error, with or without an ErrorTrait.
	Exception bool `json:"exception"`
	// Sensitive says that its value is shown to nobody.
	Sensitive bool `json:"sensitive"`

	pattern *regexp.Regexp
}

// ErrorTrait is what makes a structure an error of the service.
type ErrorTrait struct {
	HTTPStatusCode int `json:"httpStatusCode"`
	// Code is what the protocol query calls the error; empty for the shape's name.
	Code string `json:"code"`
}

//go:embed *.json
var models embed.FS

// AppMesh returns the model of AWS App Mesh, API version 2019-01-25.
func AppMesh() (*Model, error) { return Named("appmesh") }

// Evermesh returns the model of Evermesh's own operations under /evermesh/v1/.
func Evermesh() (*Model, error) { return Named("evermesh") }

// Named returns the model of a service: appmesh and evermesh, and what stands in
// subset/services.txt, such as iam.
func Named(service string) (*Model, error) {
	doc, err := models.ReadFile(service + ".json")
	if err != nil {
		return nil, fmt.Errorf("find service model: %w", err)
	}
	return Parse(doc)
}

// Parse reads a service model and refuses one that refers to shapes it does
// not have or holds a pattern that does not compile.
func Parse(doc []byte) (*Model, error) {
	m := &Model{}
	if err := json.Unmarshal(doc, m); err != nil {
		return nil, fmt.Errorf("parse service model: %w", err)
	}
	for name, s := range m.Shapes {
		for member, ref := range s.Members {
			if m.Shapes[ref.Shape] == nil {
				return nil, fmt.Errorf("parse service model: %s.%s refers to unknown shape %q", name, member, ref.Shape)
			}
		}
		for _, ref := range []*Ref{s.Member, s.Key, s.Value} {
			if ref != nil && m.Shapes[ref.Shape] == nil {
				return nil, fmt.Errorf("parse service model: %s refers to unknown shape %q", name, ref.Shape)
			}
		}
		if s.Pattern != "" {
			re, err := regexp.Compile(`^(?:` + s.Pattern + `)$`)
			if err != nil {
				return nil, fmt.Errorf("parse service model: pattern of %s: %w", name, err)
			}
			s.pattern = re
		}
	}
	return m, nil
}

// Location returns the location of an input's member: "uri", "querystring" or
// "body", and the name it travels under.
func (r Ref) location(member string) (where, name string) {
	where, name = r.Location, r.LocationName
	if where == "" {
		where = "body"
	}
	if name == "" {
		name = member
	}
	return where, name
}

// In returns the members of the input shape that travel at the location
// ("uri", "querystring", "body"), keyed by the name they travel under.
func (m *Model) In(op *Operation, location string) map[string]string {
	out := map[string]string{}
	shape := m.Shapes[op.Input.Shape]
	if shape == nil {
		return out
	}
	for member, ref := range shape.Members {
		if where, name := ref.location(member); where == location {
			out[name] = member
		}
	}
	return out
}
