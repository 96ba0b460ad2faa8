package api

import (
	"encoding/json"
	"time"
)

// Resource is one App Mesh resource as it is stored. It is immutable: whoever
// wants another one makes another one. Pointers to it are compared to find out
// whether something changed.
type Resource struct {
	Key     Key
	UID     string // UUID, new for every creation (API-011)
	Version int64  // 1 when created, one more with each update (API-010)
	Created time.Time
	Updated time.Time
	// Owner is the account that created the resource; in a shared mesh it may
	// differ from Key.Owner (API-020).
	Owner string
	Tags  []TagRef // in order of insertion
	// Document is the spec as it was accepted, without members unknown to the
	// model and without nulls. It is what reads answer, verbatim: reading back
	// adds nothing to what was sent.
	Document json.RawMessage
	// Spec is Document decoded: a pointer to the kind's spec type.
	Spec any
	// Settings are Evermesh's own of a mesh (D11), the zero value for the other
	// kinds. They are no part of the spec, and changing them counts no version.
	Settings MeshSettings
	// Revision is the store's revision that wrote this version.
	Revision int64
}

// DecodeSpec decodes a checked document into the spec type of the kind.
func DecodeSpec(kind Kind, document []byte) (any, error) {
	row, _ := kind.Row()
	spec := row.Spec()
	if err := json.Unmarshal(document, spec); err != nil {
		return nil, err
	}
	return spec, nil
}

// Change is what a write did to one key: New is nil when it is gone.
type Change struct {
	Key Key
	New *Resource
}

// The spec of a resource as its own type; nil when r is nil or of another kind.

// MeshSpec returns the mesh's spec.
func (r *Resource) MeshSpec() *MeshSpec { return spec[MeshSpec](r) }

// VirtualNodeSpec returns the virtual node's spec.
func (r *Resource) VirtualNodeSpec() *VirtualNodeSpec { return spec[VirtualNodeSpec](r) }

// VirtualRouterSpec returns the virtual router's spec.
func (r *Resource) VirtualRouterSpec() *VirtualRouterSpec { return spec[VirtualRouterSpec](r) }

// RouteSpec returns the route's spec.
func (r *Resource) RouteSpec() *RouteSpec { return spec[RouteSpec](r) }

// VirtualServiceSpec returns the virtual service's spec.
func (r *Resource) VirtualServiceSpec() *VirtualServiceSpec { return spec[VirtualServiceSpec](r) }

// VirtualGatewaySpec returns the virtual gateway's spec.
func (r *Resource) VirtualGatewaySpec() *VirtualGatewaySpec { return spec[VirtualGatewaySpec](r) }

// GatewayRouteSpec returns the gateway route's spec.
func (r *Resource) GatewayRouteSpec() *GatewayRouteSpec { return spec[GatewayRouteSpec](r) }

func spec[T any](r *Resource) *T {
	if r == nil {
		return nil
	}
	s, _ := r.Spec.(*T)
	return s
}
