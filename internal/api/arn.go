package api

import (
	"cmp"
	"fmt"
	"strings"
)

// Realm is the partition and region of a control plane; together with accounts
// they make ARNs (API-021). One control plane is one realm.
type Realm struct {
	Partition string // aws
	Region    string // us-east-1
}

// ResourceName is an ARN of whatever service in its parts:
// arn:<partition>:<service>:<region>:<account>:<resource>.
type ResourceName struct{ Partition, Service, Region, Account, Resource string }

// ResourceName returns the ARN of what an account has in a service of the realm.
func (r Realm) ResourceName(service, account, resource string) string {
	return "arn:" + r.Partition + ":" + service + ":" + r.Region + ":" + account + ":" + resource
}

// ParseResourceName takes an ARN of whatever service apart; ok is false for what is
// none.
func ParseResourceName(arn string) (n ResourceName, ok bool) {
	rest, ok := strings.CutPrefix(arn, "arn:")
	for _, part := range []*string{&n.Partition, &n.Service, &n.Region, &n.Account} {
		if ok {
			*part, rest, ok = strings.Cut(rest, ":")
		}
	}
	if !ok {
		return ResourceName{}, false
	}
	n.Resource = rest
	return n, true
}

// ARN is an App Mesh ARN taken apart (API-013 to API-019):
// arn:<partition>:appmesh:<region>:<account>:mesh/<mesh>[/<kind>/<name>]…
type ARN struct {
	Partition, Region string
	Account           string // resource owner
	MeshOwner         string // account after the @ of a shared mesh's name; empty when absent
	Mesh              string
	Kind              Kind
	Parent, Name      string
}

// Key is the key of the resource that the ARN is of. Its owner is the mesh's: the account after the @, else the resource's,
// else the account given, for an ARN's short form that names none.
func (a ARN) Key(account string) Key {
	return Key{Owner: cmp.Or(a.MeshOwner, a.Account, account), Mesh: a.Mesh, Kind: a.Kind, Parent: a.Parent, Name: a.Name}
}

// ARN returns the ARN of the resource with that key and resource owner.
func (r Realm) ARN(k Key, resourceOwner string) string {
	// Every call of the API makes some: with this they take one allocation.
	b := appendAll(make([]byte, 0, 128), "arn:", r.Partition, ":appmesh:", r.Region, ":", resourceOwner, ":mesh/", k.Mesh)
	if row, _ := k.Kind.Row(); row.Nested() {
		b = appendAll(b, "/", string(row.Parent), "/", k.Parent)
	}
	if k.Kind != KindMesh {
		b = appendAll(b, "/", string(k.Kind), "/", k.Name)
	}
	return string(b)
}

func appendAll(b []byte, parts ...string) []byte {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ParseARN takes an App Mesh ARN apart. Its errors say what is wrong with it.
func ParseARN(s string) (ARN, error) {
	n, ok := ParseResourceName(s)
	if !ok {
		return ARN{}, fmt.Errorf("%q is not an ARN: want arn:partition:appmesh:region:account:mesh/…", s)
	}
	if n.Service != "appmesh" {
		return ARN{}, fmt.Errorf("%q is an ARN of service %q: want appmesh", s, n.Service)
	}
	a, err := ParseResourcePath(n.Resource)
	if err != nil {
		return ARN{}, err
	}
	a.Partition, a.Region, a.Account = n.Partition, n.Region, n.Account
	return a, nil
}

// ParseResourcePath takes the short form of an ARN apart, which Envoy's node id
// may also be (EMS-015, EMS-016): mesh/<mesh>[@<owner>]/virtualNode/<name>.
func ParseResourcePath(s string) (ARN, error) {
	parts := strings.Split(s, "/")
	if parts[0] != "mesh" || len(parts) < 2 || len(parts)%2 != 0 || parts[1] == "" {
		return ARN{}, fmt.Errorf("%q does not name an App Mesh resource: want mesh/<mesh>[/<kind>/<name>]", s)
	}
	a := ARN{Kind: KindMesh}
	a.Mesh, a.MeshOwner, _ = strings.Cut(parts[1], "@")
	a.Name = a.Mesh
	switch len(parts) {
	case 2:
		return a, nil
	case 4:
		a.Kind, a.Name = Kind(parts[2]), parts[3]
	case 6:
		a.Kind, a.Parent, a.Name = Kind(parts[4]), parts[3], parts[5]
	default:
		return ARN{}, fmt.Errorf("%q does not name an App Mesh resource: it has %d parts", s, len(parts))
	}
	row, ok := a.Kind.Row()
	if !ok || row.Kind == KindMesh || row.Nested() != (len(parts) == 6) || (row.Nested() && string(row.Parent) != parts[2]) || a.Name == "" {
		return ARN{}, fmt.Errorf("%q does not name an App Mesh resource: want mesh/<mesh>/<kind>/<name>, and routes under their router or gateway", s)
	}
	return a, nil
}

// ParseNodeID reads Envoy's node id: an App Mesh ARN or its short form (EMS-015,
// EMS-017).
func ParseNodeID(id string) (ARN, error) {
	if strings.HasPrefix(id, "arn:") {
		return ParseARN(id)
	}
	return ParseResourcePath(id)
}
