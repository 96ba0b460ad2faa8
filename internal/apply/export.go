package apply

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// Exported is a resource as the input of the call that would create it.
type Exported struct {
	Item
	// Text is the input as JSON: names, spec and tags, in this order, on one line.
	Text json.RawMessage
}

// Export reads a mesh and all that is in it, in the order in which it can be
// created anew; within a kind the older comes first, because of routes that are
// alike the older one counts. It is no snapshot: what changes meanwhile may be in
// it or not. ok is false when there is no such mesh.
//
// Of a mesh of another account, whose key names its owner, what is the owner's is left
// out, as only the owner can create it. Tags that are another account's are not read.
func (a *Applier) Export(ctx context.Context, mesh api.Key) (out []Exported, ok bool, err error) {
	all, err := a.resources(ctx, mesh)
	if err != nil || len(all) == 0 {
		return nil, false, err
	}
	for _, r := range all {
		d, err := a.describe(ctx, r.Key)
		if err != nil {
			return nil, true, err
		}
		if d == nil {
			continue // deleted meanwhile
		}
		if mesh.Owner != "" && d.Metadata.ResourceOwner == d.Metadata.MeshOwner {
			continue
		}
		tags, err := a.tags(ctx, d.Metadata.ARN)
		switch codeOf(err) {
		case api.CodeNotFound:
			continue
		case api.CodeForbidden:
			err = nil // what another account created, whose tags are for it alone
		}
		if err != nil {
			return nil, true, err
		}
		text, err := input(r.Key, d.Spec, tags)
		if err != nil {
			return nil, true, err
		}
		out = append(out, Exported{r.Item, text})
	}
	return out, true, nil
}

// input writes a create call's input with its members in a reader's order.
func input(k api.Key, spec json.RawMessage, tags []api.TagRef) (json.RawMessage, error) {
	row, _ := k.Kind.Row()
	order := []string{"meshName", "meshOwner"}
	if row.Nested() {
		parent, _ := row.Parent.Row()
		order = append(order, parent.Name)
	}
	if row.Kind != api.KindMesh {
		order = append(order, row.Name)
	}
	named := names(k)
	out := []byte{'{'}
	member := func(name string, value any) error {
		text, err := encode(value)
		if err != nil {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, '"')
		out = append(out, name...)
		out = append(out, '"', ':')
		out = append(out, text...)
		return nil
	}
	for _, name := range order {
		if value, set := named[name]; set && (name != "meshOwner" || row.Kind != api.KindMesh) {
			if err := member(name, value); err != nil {
				return nil, err
			}
		}
	}
	if tags == nil {
		tags = []api.TagRef{}
	}
	if err := member("spec", spec); err != nil {
		return nil, err
	}
	if err := member("tags", tags); err != nil {
		return nil, err
	}
	return append(out, '}'), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
