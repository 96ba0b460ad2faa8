// Package model holds the App Mesh API as data. appmesh.json is the public
// service model without its prose; evermesh.json describes Evermesh's own
// operations in the same language. Everything that follows from a model is
// derived from it, never typed again: gen writes the Go types of package api,
// Check validates a request by walking the shapes, and package rest binds a
// request to an operation by their locations.
//
// Start with Model, then Check.
package model

import (
	_ "embed"
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
	ServiceID      string `json:"serviceId"`
	SigningName    string `json:"signingName"`
}

// Operation is one call of the service.
type Operation struct {
	Name   string `json:"name"`
	HTTP   HTTP   `json:"http"`
	Input  Ref    `json:"input"`
	Output Ref    `json:"output"`
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
}

// Shape is a type: a structure, list, string, integer, long, boolean or
// timestamp, with its constraints.
type Shape struct {
	Type     string         `json:"type"`
	Members  map[string]Ref `json:"members"`
	Required []string       `json:"required"`
	Payload  string         `json:"payload"`
	Union    bool           `json:"union"`
	Member   *Ref           `json:"member"`
	Enum     []string       `json:"enum"`
	Min      *int64         `json:"min"`
	Max      *int64         `json:"max"`
	Pattern  string         `json:"pattern"`
	Error    *ErrorTrait    `json:"error"`

	pattern *regexp.Regexp
}

// ErrorTrait is what makes a structure an error of the service.
type ErrorTrait struct {
	HTTPStatusCode int `json:"httpStatusCode"`
}

//go:embed appmesh.json
var appMeshJSON []byte

//go:embed evermesh.json
var evermeshJSON []byte

// AppMesh returns the model of AWS App Mesh, API version 2019-01-25.
func AppMesh() (*Model, error) { return Parse(appMeshJSON) }

// Evermesh returns the model of Evermesh's own operations under /evermesh/v1/.
func Evermesh() (*Model, error) { return Parse(evermeshJSON) }

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
		if s.Member != nil && m.Shapes[s.Member.Shape] == nil {
			return nil, fmt.Errorf("parse service model: %s refers to unknown shape %q", name, s.Member.Shape)
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
