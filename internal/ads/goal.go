package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// goal is what all proxies of a client are to have: the lists of a bundle and
// the version of the whole. It is immutable and shared by the client's streams.
type goal struct {
	lists    [envoy.Secret]*envoy.List
	secrets  []string  // that the proxies may ask for, sorted
	version  string    // hash of the bundle: system_version_info (D12)
	held     []api.Key // nodes that the bundle does not show as they are stored
	revision int64     // of the store
}

func goalOf(b *envoy.Bundle, revision int64) *goal {
	g := &goal{revision: revision, secrets: b.Secrets()}
	if b.View != nil {
		g.held = b.View.Held
	}
	for _, t := range envoy.Types() {
		g.lists[t] = b.List(t)
	}
	g.version = g.digest()
	return g
}

func (g *goal) digest() string {
	h := sha256.New()
	for _, l := range g.lists {
		h.Write([]byte(l.Hash))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// list returns the goal's resources of a type, sorted by name.
func (g *goal) list(t envoy.Type) []*envoy.Resource { return g.lists[t].Resources }

// The functions below work on resources sorted by name.

func find(list []*envoy.Resource, name string) *envoy.Resource {
	i, ok := slices.BinarySearchFunc(list, name, byName)
	if !ok {
		return nil
	}
	return list[i]
}

func byName(r *envoy.Resource, name string) int { return strings.Compare(r.Name, name) }

// union is a and what b has beside it.
func union(a, b []*envoy.Resource) []*envoy.Resource {
	out := make([]*envoy.Resource, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || (len(a) > 0 && a[0].Name < b[0].Name):
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || b[0].Name < a[0].Name:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, a[0]), a[1:], b[1:]
		}
	}
	return out
}

// without is list less the named ones.
func without(list []*envoy.Resource, names []string) []*envoy.Resource {
	if len(names) == 0 {
		return list
	}
	gone := make(map[string]bool, len(names))
	for _, n := range names {
		gone[n] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(r *envoy.Resource) bool { return gone[r.Name] })
}

// same says whether two lists have the same names with the same content.
func same(a, b []*envoy.Resource) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 || &a[0] == &b[0] {
		return true
	}
	return slices.EqualFunc(a, b, func(x, y *envoy.Resource) bool {
		return x == y || (x.Name == y.Name && x.Hash == y.Hash && x.Hash != uncertain)
	})
}

// digest is a version for resources that are not a whole list of a bundle.
func digest(list []*envoy.Resource) string {
	h := sha256.New()
	for _, r := range list {
		h.Write([]byte(r.Name))
		h.Write([]byte{0})
		h.Write([]byte(r.Hash))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
