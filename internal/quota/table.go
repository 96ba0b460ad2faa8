package quota

import (
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// The one service that has quotas here.
const (
	ServiceCode = "appmesh"
	serviceName = "AWS App Mesh"
)

// The quotas of connected proxies.
const (
	nodeEnvoys    = "L-606A910B"
	gatewayEnvoys = "L-33E8F9C9"
)

// NoLimit is the value that stands for none where a number is wanted.
const NoLimit = 1<<31 - 1

// Quota is one of App Mesh's eleven (QUOTA-001).
type Quota struct {
	Code string
	Name string
	// Default is AWS's number.
	Default int
	// Adjustable says that an account may ask for more.
	Adjustable bool
	// of is where it is among those that are counted; nil for what the model bounds.
	of func(*mesh.Quotas) *int
}

// Quotas are all of them, in the order of their codes.
func Quotas() []Quota {
	all := []Quota{
		{"L-AC861A39", "Meshes per account", 15, true, func(q *mesh.Quotas) *int { return &q.Meshes }},
		{"L-DA7495A7", "Virtual services per mesh", 200, true, func(q *mesh.Quotas) *int { return &q.VirtualServices }},
		{"L-E043DFB4", "Virtual nodes per mesh", 200, true, func(q *mesh.Quotas) *int { return &q.VirtualNodes }},
		{"L-50F6C35A", "Virtual routers per mesh", 200, true, func(q *mesh.Quotas) *int { return &q.VirtualRouters }},
		{"L-BB90B7FF", "Routes per virtual router", 50, true, func(q *mesh.Quotas) *int { return &q.Routes }},
		{"L-AE1D9567", "Weighted targets per route", 10, false, nil},
		{"L-8775AB18", "Backends per virtual node", 50, true, func(q *mesh.Quotas) *int { return &q.Backends }},
		{nodeEnvoys, "Connected Envoy processes per virtual node", 50, true, func(q *mesh.Quotas) *int { return &q.NodeEnvoys }},
		{gatewayEnvoys, "Connected Envoy processes per virtual gateway", 50, true, func(q *mesh.Quotas) *int { return &q.GatewayEnvoys }},
		{"L-87E74146", "Virtual gateways per mesh", 3, true, func(q *mesh.Quotas) *int { return &q.VirtualGateways }},
		{"L-F6F26D09", "Gateway routes per virtual gateway", 10, true, func(q *mesh.Quotas) *int { return &q.GatewayRoutes }},
	}
	slices.SortFunc(all, func(a, b Quota) int {
		if a.Code < b.Code {
			return -1
		}
		return 1
	})
	return all
}

// named finds a quota by its code.
func named(code string) (Quota, bool) {
	for _, q := range Quotas() {
		if q.Code == code {
			return q, true
		}
	}
	return Quota{}, false
}

// get returns the quota's number among those that are counted; 0 is no limit.
func (q Quota) get(all mesh.Quotas) int {
	if q.of == nil {
		return q.Default
	}
	return *q.of(&all)
}

// account is what is known of an account's quotas beside the choice for all.
type account struct {
	values map[string]value // by code
}

// value is what was set and granted of one quota.
type value struct {
	// Set is the operator's number, 0 for no limit; nil where there is none.
	Set *int `json:"set,omitempty"`
	// Granted is what the account asked for; it only raises.
	Granted int `json:"granted,omitempty"`
}

// over is the number that counts where the layer below has n.
func (v value) over(n int) int {
	if v.Set != nil {
		n = *v.Set
	}
	if n == 0 {
		return 0
	}
	return max(n, v.Granted)
}

// over returns the quotas that count where the layer below has these.
func (a account) over(below mesh.Quotas) mesh.Quotas {
	for _, q := range Quotas() {
		if v, ok := a.values[q.Code]; ok && q.of != nil {
			n := q.of(&below)
			*n = v.over(*n)
		}
	}
	return below
}

// applied are the quotas of one account for each choice that a mesh may make.
type applied struct{ unset, aws mesh.Quotas }

func (a account) apply(base mesh.Quotas) applied {
	return applied{unset: a.over(base), aws: a.over(mesh.AppMeshQuotas())}
}

func (a applied) of(set api.QuotaSet) mesh.Quotas {
	switch set {
	case api.QuotaSetAWS:
		return a.aws
	case api.QuotaSetNone:
		return mesh.Quotas{}
	}
	return a.unset
}
