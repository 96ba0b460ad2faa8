// Package apply brings the resources of a control plane to what files say: it
// creates and updates them in the order in which they refer to each other, and
// removes others in the reverse order, through the API that every tool uses. It
// writes only what differs, so that it may be run again, also after it failed
// half way, and by two at once. Export is its inverse: it reads a mesh as the
// inputs that apply takes.
//
// Item is one resource; start with Applier.Look, which tells what is to be done
// for one, and Applier.Run, which does it for all.
package apply

import (
	"cmp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Item is one resource: as it is to be, or one that is to go.
type Item struct {
	// Where says where it comes from, as file:line; empty for one that is to go.
	Where string
	// Key is what it is found by; Owner is empty when the caller's own account
	// owns the mesh.
	Key api.Key
	// Doc is the input of its create call, checked; nil when it is to go. Of the
	// members beside its names, spec and tags count: spec, absent, is an empty
	// one; tags, absent, are left as they are.
	Doc map[string]any
}

// Path is the short form of the item's ARN, such as mesh/shop/virtualNode/web,
// with the mesh's owner when the item names it.
func (i Item) Path() string {
	arn := api.Realm{}.ARN(i.Key, "")
	path := arn[strings.LastIndex(arn, ":mesh/")+1:]
	if i.Key.Owner != "" {
		path = strings.Replace(path, "mesh/"+i.Key.Mesh, "mesh/"+i.Key.Mesh+"@"+i.Key.Owner, 1)
	}
	return path
}

// names are the members of a call's input that name the item.
func (i Item) names() map[string]any { return names(i.Key) }

func names(k api.Key) map[string]any {
	row, _ := k.Kind.Row()
	out := map[string]any{"meshName": k.Mesh, row.Name: k.Name}
	if row.Nested() {
		parent, _ := row.Parent.Row()
		out[parent.Name] = k.Parent
	}
	if k.Owner != "" {
		out["meshOwner"] = k.Owner
	}
	return out
}

// Input is the input of the call that creates the item, or of the one that
// removes it.
func (i Item) Input() map[string]any {
	in := i.names()
	if i.Doc == nil {
		return in
	}
	in["spec"] = i.spec()
	if tags, says := i.Doc["tags"]; says {
		in["tags"] = tags
	}
	return in
}

// spec is what the item is to be.
func (i Item) spec() any {
	if s := i.Doc["spec"]; s != nil {
		return s
	}
	return map[string]any{}
}

// tags are those that the item is to have; ok is false when it does not say.
func (i Item) tags() (tags map[string]string, ok bool) {
	list, ok := i.Doc["tags"].([]any)
	if !ok {
		return nil, false
	}
	tags = map[string]string{}
	for _, x := range list {
		t, _ := x.(map[string]any)
		key, _ := t["key"].(string)
		tags[key], _ = t["value"].(string)
	}
	return tags, true
}

// rank is the kind's place in the order of creation: what is referred to comes
// before what refers to it.
func rank(k api.Kind) int {
	return slices.IndexFunc(api.Kinds(), func(r api.KindRow) bool { return r.Kind == k })
}

// InOrder returns the items in the order in which they are to be done: those to
// be written with what others refer to first, as they stand within a kind, then
// those to go the other way round.
func InOrder(items []Item) []Item {
	out := slices.Clone(items)
	slices.SortStableFunc(out, func(a, b Item) int {
		if aGoes, bGoes := a.Doc == nil, b.Doc == nil; aGoes || bGoes {
			if aGoes && bGoes {
				return cmp.Or(rank(b.Key.Kind)-rank(a.Key.Kind), strings.Compare(a.Key.String(), b.Key.String()))
			}
			if aGoes {
				return 1
			}
			return -1
		}
		return rank(a.Key.Kind) - rank(b.Key.Kind)
	})
	return out
}
