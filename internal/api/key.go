package api

import (
	"fmt"
	"net/url"
	"strings"
)

// Key identifies a resource on one control plane. Two accounts may hold meshes
// and nodes of equal names, so the mesh's owner is part of every key (D1:
// accounts are in every key from the first day). Key is comparable.
type Key struct {
	Owner  string // account that owns the mesh, 12 digits
	Mesh   string
	Kind   Kind
	Parent string // router of a route, gateway of a gateway route, else empty
	Name   string // of a mesh: the mesh's own name
}

// MeshKey is the key of the mesh that k is in.
func (k Key) MeshKey() Key {
	return Key{Owner: k.Owner, Mesh: k.Mesh, Kind: KindMesh, Name: k.Mesh}
}

// In is the key of another resource of k's mesh.
func (k Key) In(kind Kind, parent, name string) Key {
	return Key{Owner: k.Owner, Mesh: k.Mesh, Kind: kind, Parent: parent, Name: name}
}

// ParentKey is the key of what k lives under; ok is false for a mesh.
func (k Key) ParentKey() (parent Key, ok bool) {
	switch row, _ := k.Kind.Row(); {
	case row.Parent == "":
		return Key{}, false
	case row.Parent == KindMesh:
		return k.MeshKey(), true
	default:
		return k.In(row.Parent, "", k.Parent), true
	}
}

// String is the tail of the key's place in the store,
// <owner>/<mesh>/<kind>/[<parent>/]<name>, with each part percent-encoded. It
// sorts as the API lists.
func (k Key) String() string {
	parts := []string{k.Owner, k.Mesh, string(k.Kind), k.Name}
	if row, _ := k.Kind.Row(); row.Nested() {
		parts = []string{k.Owner, k.Mesh, string(k.Kind), k.Parent, k.Name}
	}
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// ParseKey is the inverse of Key.String.
func ParseKey(s string) (Key, error) {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		plain, err := url.PathUnescape(p)
		if err != nil {
			return Key{}, fmt.Errorf("parse key %q: %w", s, err)
		}
		parts[i] = plain
	}
	if len(parts) < 4 {
		return Key{}, fmt.Errorf("parse key %q: has %d parts, want owner/mesh/kind/[parent/]name", s, len(parts))
	}
	k := Key{Owner: parts[0], Mesh: parts[1], Kind: Kind(parts[2]), Name: parts[len(parts)-1]}
	row, ok := k.Kind.Row()
	switch {
	case !ok:
		return Key{}, fmt.Errorf("parse key %q: %q is not a kind of resource", s, parts[2])
	case row.Nested() && len(parts) == 5:
		k.Parent = parts[3]
	case row.Nested() || len(parts) != 4:
		return Key{}, fmt.Errorf("parse key %q: has %d parts, which does not fit kind %s", s, len(parts), k.Kind)
	}
	return k, nil
}
