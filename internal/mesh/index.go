package mesh

import (
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// Reads are the keys and ranges of keys that a view was resolved from, also
// those under which nothing was found. The zero value has read nothing.
type Reads struct {
	keys   []api.Key
	ranges []keyRange
}

// keyRange is all keys of a kind under a parent.
type keyRange struct {
	kind   api.Kind
	parent api.Key
}

// Equal says whether the same was read, in the same order.
func (r Reads) Equal(other Reads) bool {
	return slices.Equal(r.keys, other.keys) && slices.Equal(r.ranges, other.ranges)
}

// Index is the inverse of Reads: which clients have read a key (D6.5). It is
// not safe for use by several goroutines; the publishing loop owns it.
type Index struct {
	reads  map[Client]Reads
	keys   map[api.Key]map[Client]bool
	ranges map[keyRange]map[Client]bool
}

// NewIndex makes an empty index.
func NewIndex() *Index {
	return &Index{reads: map[Client]Reads{}, keys: map[api.Key]map[Client]bool{}, ranges: map[keyRange]map[Client]bool{}}
}

// Set makes reads what the client has read, in place of what it read before.
func (x *Index) Set(c Client, reads Reads) {
	if old, ok := x.reads[c]; ok {
		if old.Equal(reads) {
			return
		}
		x.Remove(c)
	}
	x.reads[c] = reads
	for _, k := range reads.keys {
		add(x.keys, k, c)
	}
	for _, k := range reads.ranges {
		add(x.ranges, k, c)
	}
}

// Remove forgets the client.
func (x *Index) Remove(c Client) {
	old := x.reads[c]
	delete(x.reads, c)
	for _, k := range old.keys {
		remove(x.keys, k, c)
	}
	for _, k := range old.ranges {
		remove(x.ranges, k, c)
	}
}

// Affected returns the clients that have read one of the changed keys, each
// once, in no particular order. Only their views can differ.
func (x *Index) Affected(changes []api.Change) []Client {
	found := map[Client]bool{}
	for _, change := range changes {
		for c := range x.keys[change.Key] {
			found[c] = true
		}
		if parent, ok := change.Key.ParentKey(); ok {
			for c := range x.ranges[keyRange{change.Key.Kind, parent}] {
				found[c] = true
			}
		}
	}
	out := make([]Client, 0, len(found))
	for c := range found {
		out = append(out, c)
	}
	return out
}

func add[K comparable](m map[K]map[Client]bool, k K, c Client) {
	if m[k] == nil {
		m[k] = map[Client]bool{}
	}
	m[k][c] = true
}

func remove[K comparable](m map[K]map[Client]bool, k K, c Client) {
	if delete(m[k], c); len(m[k]) == 0 {
		delete(m, k)
	}
}
