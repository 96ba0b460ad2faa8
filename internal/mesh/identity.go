package mesh

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// A mesh may give every node and gateway an identity certificate, and have its nodes
// speak mutual TLS with them, without a word in their specs (D11). A Snapshot shows
// such nodes as they act: a listener that says nothing of TLS has the mesh's, under a
// certificate that no spec can name. So turns, views and translation know of it what
// they know of any TLS; what a listener says by itself stays.

// IdentityCertificate stands where a certificate's ARN is else: that of the listener's
// own node.
const IdentityCertificate = "evermesh:identity"

// Identified says whether a listener's certificate is the identity of its node.
func Identified(t *api.ListenerTLS) bool {
	return t != nil && t.Certificate.ACM != nil && t.Certificate.ACM.CertificateARN == IdentityCertificate
}

// Identity is the identity of a node or gateway, a SPIFFE id whose path is that of
// its ARN: spiffe://111122223333/mesh/shop/virtualNode/orders. Its trust domain is the
// account that owns the mesh.
func Identity(key api.Key) string {
	return "spiffe://" + key.Owner + "/mesh/" + key.Mesh + "/" + string(key.Kind) + "/" + key.Name
}

// BuiltIn is the word for the mesh owner's own authority, which needs no making;
// BuiltIn/2 and so on are others, to change to.
const BuiltIn = "built-in"

var authorityForm = regexp.MustCompile(`^arn:[a-z0-9-]+:acm-pca:[a-z0-9-]+:[0-9]{12}:certificate-authority/[0-9a-f-]{36}$`)

// Generation is the number of a built-in authority; ok is false for another one.
func Generation(authority string) (n int, ok bool) {
	rest, ok := strings.CutPrefix(authority, BuiltIn)
	switch {
	case !ok:
		return 0, false
	case rest == "":
		return 1, true
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "/"))
	return n, err == nil && n > 1 && n < 100 && rest == "/"+strconv.Itoa(n)
}

// CheckSettings refuses settings that cannot act.
func CheckSettings(mesh api.Key, s api.MeshSettings) error {
	for i, authority := range s.IdentityAuthorities {
		_, ours := Generation(authority)
		switch {
		case !ours && !authorityForm.MatchString(authority):
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[%d]: %q is no certificate authority: want its ARN, or %s.", i, authority, BuiltIn)
		case !ours && !strings.Contains(authority, ":"+mesh.Owner+":"):
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[%d]: %s is not one of account %s, which owns the mesh.", i, authority, mesh.Owner)
		case slices.Contains(s.IdentityAuthorities[:i], authority):
			return api.Errorf(api.CodeBadRequest, "identityAuthorities[%d]: %s is named twice.", i, authority)
		}
	}
	return nil
}

// Authorities are those of a mesh's identities: the first one issues, all are
// trusted.
func Authorities(s api.MeshSettings) []string {
	if len(s.IdentityAuthorities) == 0 {
		return []string{BuiltIn}
	}
	return s.IdentityAuthorities
}

// identityMode is what the mesh has its nodes' listeners take; empty when it gives no
// identities.
func identityMode(mesh *api.Resource) api.ListenerTLSMode {
	if mesh == nil {
		return ""
	}
	switch mesh.Settings.Identity {
	case api.IdentityPermissive:
		return api.ListenerTLSModePermissive
	case api.IdentityStrict:
		return api.ListenerTLSModeStrict
	}
	return ""
}

// IdentityOn says whether the mesh gives identities.
func IdentityOn(mesh *api.Resource) bool { return identityMode(mesh) != "" }

// acting is a node as it acts in a mesh of that mode: the very same one where that is
// as it is stored.
func acting(r *api.Resource, mode api.ListenerTLSMode) *api.Resource {
	spec := r.VirtualNodeSpec()
	if spec == nil {
		return r
	}
	var list []api.Listener
	for i := range spec.Listeners {
		now := spec.Listeners[i].TLS
		switch {
		case now != nil && !Identified(now), now == nil && mode == "", now != nil && now.Mode == mode:
			continue // it says it by itself, or nobody says anything, or it is so
		case list == nil:
			list = slices.Clone(spec.Listeners)
		}
		list[i].TLS = nil
		if mode != "" {
			list[i].TLS = &api.ListenerTLS{Mode: mode, Certificate: api.ListenerTLSCertificate{ACM: &api.ListenerTLSACMCertificate{CertificateARN: IdentityCertificate}}}
		}
	}
	if list == nil {
		return r
	}
	return withListeners(r, list)
}

// identify has the nodes of a mesh act as its settings say now, and returns which of
// them are others.
func (t *tables) identify() []api.Change {
	mode := identityMode(t.mesh)
	list := t.kinds[nodes].list("")
	var now []*api.Resource
	var changes []api.Change
	for i, r := range list {
		x := acting(r, mode)
		if x == r {
			continue
		}
		if now == nil {
			now = slices.Clone(list)
		}
		now[i] = x
		changes = append(changes, api.Change{Key: r.Key, New: x})
	}
	if now != nil {
		t.kinds[nodes].set("", now)
	}
	return changes
}

// Alike says whether clients may use the same of two nodes' listeners: then nobody
// need wait for the change from one to the other (D6.3).
func Alike(a, b *api.Resource) bool {
	if a.VirtualNodeSpec() == nil || b.VirtualNodeSpec() == nil {
		return a == b
	}
	return alike(listenersOf(a), listenersOf(b))
}

func alike(a, b []api.Listener) bool { return !gains(a, b) && !gains(b, a) }

// SameGoal says whether the form is of a turn to the listeners that the node has.
func (f Form) SameGoal(node *api.Resource) bool {
	return node.VirtualNodeSpec() != nil && alike(f.Goal, listenersOf(node))
}

// IdentityChanged are the nodes that act otherwise after a change of their mesh's
// settings.
func IdentityChanged(before, after *Snapshot, mesh api.Key) []api.Change {
	if identityMode(before.Get(mesh)) == identityMode(after.Get(mesh)) {
		return nil
	}
	var out []api.Change
	for _, r := range after.List(api.KindVirtualNode, mesh) {
		out = append(out, api.Change{Key: r.Key, New: r})
	}
	return out
}
