package mesh

import "github.com/evermesh/evermesh/internal/api"

// The rules of a mesh that several accounts use. Whether an account may come into
// another's mesh at all is not known here; whose things it may touch there is.

// CheckOwner says whether an account may do a write, apart from what Check says: old is
// nil when the resource is created, now when it is deleted. An account changes what it
// created, and nothing else; a mesh's owner also deletes what others created in it
// (SHARE-006, SHARE-007). A refusal is a ForbiddenException.
func CheckOwner(account string, old, now *api.Resource) error {
	switch {
	case old == nil || old.Owner == account:
		return nil
	case now == nil && old.Key.Owner == account:
		return nil
	case now == nil:
		return forbidden("%s belongs to account %s: only that account and the owner of the mesh delete it.", described(old), old.Owner)
	}
	return forbidden("%s belongs to account %s: only that account changes it.", described(old), old.Owner)
}

// gatewayIsOfOwner: only the owner of a mesh creates virtual gateways and gateway routes
// in it (SHARE-010).
func gatewayIsOfOwner(_ Reader, old, now *api.Resource) error {
	if old != nil || now.Owner == now.Key.Owner {
		return nil
	}
	row, _ := now.Key.Kind.Row()
	return forbidden("Mesh %s belongs to account %s: only that account creates a %s in it.", now.Key.Mesh, now.Key.Owner, row.Type)
}

// routerIsOwn: routes come into a router from the account that created it (RT-040).
func routerIsOwn(r Reader, old, now *api.Resource) error {
	key, _ := now.Key.ParentKey()
	router := r.Get(key)
	if old != nil || router == nil || router.Owner == now.Owner {
		return nil
	}
	return forbidden("%s belongs to account %s: only that account creates routes in it.", described(router), router.Owner)
}

// described is a resource in a text.
func described(r *api.Resource) string {
	row, _ := r.Key.Kind.Row()
	switch {
	case r.Key.Kind == api.KindMesh:
		return "Mesh " + r.Key.Name
	case row.Nested():
		return row.Type + " " + r.Key.Name + " of " + r.Key.Parent + " in mesh " + r.Key.Mesh
	}
	return row.Type + " " + r.Key.Name + " in mesh " + r.Key.Mesh
}

func forbidden(format string, args ...any) error {
	return api.Errorf(api.CodeForbidden, format, args...)
}
