package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Listed is a resource as a list of the API names it.
type Listed struct {
	Item
	ref
}

type ref struct {
	ARN           string        `json:"arn"`
	MeshOwner     string        `json:"meshOwner"`
	ResourceOwner string        `json:"resourceOwner"`
	CreatedAt     api.Timestamp `json:"createdAt"`
}

// Others returns what is in the meshes that the items name and is none of the
// items: what a pruning apply removes. A mesh itself is never among it, nor is a
// resource of another account: those are in left. A mesh that does not exist yet
// holds nothing. Items that name a mesh's owner are refused: whose a shared
// mesh's resources are is not for its guests to settle.
func (a *Applier) Others(ctx context.Context, items []Item) (others []Item, left []Listed, err error) {
	meshes := map[string]api.Key{}
	wanted := map[api.Key]bool{}
	for _, i := range items {
		if i.Key.Owner != "" {
			return nil, nil, fmt.Errorf("%s: %s names the mesh's owner: resources are removed from meshes of one's own only, so leave out meshOwner or --prune", i.Where, i.Path())
		}
		meshes[i.Key.Mesh] = i.Key.MeshKey()
		wanted[i.Key] = true
	}
	for _, name := range sortedKeys(meshes) {
		all, err := a.resources(ctx, meshes[name])
		if err != nil {
			return nil, nil, err
		}
		for _, r := range all {
			switch {
			case wanted[r.Key] || r.Key.Kind == api.KindMesh:
			case r.ResourceOwner != r.MeshOwner:
				left = append(left, r)
			default:
				others = append(others, r.Item)
			}
		}
	}
	return InOrder(others), left, nil
}

// resources lists all that is in a mesh, the mesh first, in the order of
// creation of kinds, and by age within a kind. A mesh that does not exist has
// none.
func (a *Applier) resources(ctx context.Context, mesh api.Key) ([]Listed, error) {
	d, err := a.describe(ctx, mesh)
	if err != nil || d == nil {
		return nil, err
	}
	out := []Listed{{Item{Key: mesh}, ref{d.Metadata.ARN, d.Metadata.MeshOwner, d.Metadata.ResourceOwner, d.Metadata.CreatedAt}}}
	for _, row := range api.Kinds() {
		parents := []api.Key{mesh}
		switch {
		case row.Kind == api.KindMesh:
			continue
		case row.Nested():
			parents = nil
			for _, r := range out {
				if r.Key.Kind == row.Parent {
					parents = append(parents, r.Key)
				}
			}
		}
		var found []Listed
		for _, parent := range parents {
			some, err := a.list(ctx, row, parent)
			if err != nil {
				return nil, err
			}
			found = append(found, some...)
		}
		slices.SortStableFunc(found, func(a, b Listed) int { return a.CreatedAt.Compare(b.CreatedAt.Time) })
		out = append(out, found...)
	}
	return out, nil
}

// list reads all pages of one list. A parent that went away has nothing.
func (a *Applier) list(ctx context.Context, row api.KindRow, parent api.Key) ([]Listed, error) {
	var out []Listed
	in := names(parent)
	for {
		var page map[string]any
		err := a.Client.Call(ctx, "List"+row.Plural, in, &page)
		if codeOf(err) == api.CodeNotFound {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		items, _ := page[row.List].([]any)
		for _, x := range items {
			var r ref
			if err := reread(x, &r); err != nil {
				return nil, fmt.Errorf("read list of %s: %w", strings.ToLower(row.Plural), err)
			}
			m, _ := x.(map[string]any)
			name, _ := m[row.Name].(string)
			key := api.Key{Owner: parent.Owner, Mesh: parent.Mesh, Kind: row.Kind, Name: name}
			if row.Nested() {
				key.Parent = parent.Name
			}
			out = append(out, Listed{Item{Key: key}, r})
		}
		next, _ := page["nextToken"].(string)
		if next == "" {
			return out, nil
		}
		in["nextToken"] = next
	}
}
