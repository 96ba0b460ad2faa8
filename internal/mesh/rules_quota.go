package mesh

import "github.com/evermesh/evermesh/internal/api"

// Quotas are how many resources there may be of a kind, and how many backends a
// node may have; 0 is no limit. They bound growth: what there is beyond a limit
// can be changed and deleted.
//
// App Mesh's tenth, ten weighted targets a route, is a constraint of the model.
type Quotas struct {
	Meshes          int // of an account
	VirtualNodes    int // of a mesh
	VirtualRouters  int // of a mesh
	VirtualServices int // of a mesh
	VirtualGateways int // of a mesh
	Routes          int // of a virtual router
	GatewayRoutes   int // of a virtual gateway
	Backends        int // of a virtual node
	NodeEnvoys      int // connected at once, of a virtual node
	GatewayEnvoys   int // connected at once, of a virtual gateway
}

// Limits are the quotas of accounts.
type Limits interface {
	// For returns those of an account's meshes. set is what a mesh's settings say of
	// quotas (D11); empty where they say nothing.
	For(account string, set api.QuotaSet) Quotas
}

// QuotasOf returns what counts for a write of the key: the quotas of its mesh's owner,
// whoever writes (SHARE-022), as the mesh's settings want them. How many meshes there may
// be is not a mesh's to say. Nil limits are none but those of meshes.
func QuotasOf(l Limits, r Reader, key api.Key) Quotas {
	if l == nil {
		l = Quotas{}
	}
	var set api.QuotaSet
	if key.Kind != api.KindMesh {
		if m := r.Get(key.MeshKey()); m != nil {
			set = m.Settings.Quotas
		}
	}
	return l.For(key.Owner, set)
}

// AppMeshQuotas are those that AWS App Mesh had by default (QUOTA-002 to
// QUOTA-008).
func AppMeshQuotas() Quotas {
	return Quotas{
		Meshes: 15, VirtualNodes: 200, VirtualRouters: 200, VirtualServices: 200, VirtualGateways: 3,
		Routes: 50, GatewayRoutes: 10, Backends: 50, NodeEnvoys: 50, GatewayEnvoys: 50,
	}
}

// For satisfies Limits: the same quotas for every account.
func (q Quotas) For(_ string, set api.QuotaSet) Quotas {
	switch set {
	case api.QuotaSetAWS:
		return AppMeshQuotas()
	case api.QuotaSetNone:
		return Quotas{}
	}
	return q
}

// CheckQuotas says whether a write keeps the quotas: a LimitExceededException
// if not (QUOTA-009). old is nil when the resource is created. r lists the
// siblings of what is created; for a mesh, all meshes of its owner.
func CheckQuotas(q Quotas, r Reader, old, now *api.Resource) error {
	if old == nil {
		limit := q.of(now.Key.Kind)
		parent, nested := now.Key.ParentKey()
		if !nested {
			parent = now.Key // meshes are listed under their owner
		}
		if limit > 0 && len(r.List(now.Key.Kind, parent)) >= limit {
			row, _ := now.Key.Kind.Row()
			return reached(row.Plural, limit, holder(now.Key, row))
		}
	}
	if n := backends(now); q.Backends > 0 && n > q.Backends && n > backends(old) {
		return reached("Backends", q.Backends, "virtual node "+now.Key.Name)
	}
	return nil
}

func (q Quotas) of(kind api.Kind) int {
	switch kind {
	case api.KindMesh:
		return q.Meshes
	case api.KindVirtualNode:
		return q.VirtualNodes
	case api.KindVirtualRouter:
		return q.VirtualRouters
	case api.KindVirtualService:
		return q.VirtualServices
	case api.KindVirtualGateway:
		return q.VirtualGateways
	case api.KindRoute:
		return q.Routes
	case api.KindGatewayRoute:
		return q.GatewayRoutes
	}
	return 0
}

// holder names what a quota belongs to.
func holder(key api.Key, row api.KindRow) string {
	switch row.Parent {
	case "":
		return "account " + key.Owner
	case api.KindVirtualRouter:
		return "virtual router " + key.Parent
	case api.KindVirtualGateway:
		return "virtual gateway " + key.Parent
	}
	return "mesh " + key.Mesh
}

func backends(r *api.Resource) int {
	if spec := r.VirtualNodeSpec(); spec != nil {
		return len(spec.Backends)
	}
	return 0
}

func reached(what string, limit int, of string) error {
	return api.Errorf(api.CodeLimitExceeded, "You've reached the limit on number of %s(%d) for the %s.", what, limit, of)
}
