package plan

import (
	"cmp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/mesh"
)

// kind is proxies of one node or gateway whose configurations change alike.
type kind struct {
	client    mesh.Client
	connected int64
}

// kindsOf are the kinds of proxies that the clients have, which are without traits: of those
// that are connected, or without traits where none is. Proxies without interception may each
// have an address of its own, and so a configuration; what a change does to one of them it
// does to all, so that one stands for them.
func kindsOf(clients map[mesh.Client]bool, connected []mesh.Client) (out []kind) {
	alike := map[mesh.Client]*kind{}
	has := map[mesh.Client]bool{}
	for _, c := range connected {
		if !clients[c.Plain()] {
			continue
		}
		has[c.Plain()] = true
		anywhere := c
		anywhere.Traits.Direct = c.Traits.Direct.Anywhere()
		k := alike[anywhere]
		if k == nil {
			k = &kind{client: c}
			alike[anywhere] = k
		}
		k.connected++
		if compare(c, k.client) < 0 {
			k.client = c
		}
	}
	for _, k := range alike {
		out = append(out, *k)
	}
	for c := range clients {
		if !has[c] {
			out = append(out, kind{client: c})
		}
	}
	slices.SortFunc(out, func(a, b kind) int { return compare(a.client, b.client) })
	return out
}

func compare(a, b mesh.Client) int {
	return cmp.Or(byKey(a, b), strings.Compare(string(a.Traits.Direct), string(b.Traits.Direct)), slices.CompareFunc(a.Traits.Words(), b.Traits.Words(), strings.Compare))
}
