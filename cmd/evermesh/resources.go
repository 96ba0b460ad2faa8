package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
)

// reading is what the inputs of files come to.
type reading struct {
	resources []*api.Resource
	faults    []string // what the API would refuse, a line each
	notes     []string // what a person should know, a line each
	// faulty are the names of what has a fault of its own, in the order of the files.
	faulty []api.Key
}

// resourcesOf checks the inputs as the API would and makes their resources,
// those that others refer to first, in whatever order the files have them.
func resourcesOf(found files, account string) (reading, error) {
	out := reading{notes: slices.Concat(found.skipped, found.notes), faults: found.faults}
	checked, err := out.check(found.inputs, account)
	if err != nil {
		return reading{}, err
	}
	where := map[api.Key]string{}
	made := make([]*api.Resource, len(checked), len(checked)+len(out.faulty))
	for i, x := range checked {
		made[i], where[x.resource.Key] = x.resource, x.where
	}
	if len(found.faults) > 0 {
		return out, nil // what refers to what could not be read would be refused, too
	}
	// What is in the files and faulty is not missing, and was told: it stands as a name without a spec, so that what
	// refers to it has its own faults told, and no other.
	for _, key := range out.faulty {
		if _, twice := where[key]; !twice {
			made = append(made, &api.Resource{Key: key, Owner: account})
			where[key] = ""
		}
	}
	out.assumeMeshes(&made, account)
	out.keepRules(made, where)
	return out, nil
}

// checked is an input that keeps the model, and what it makes.
type checked struct {
	input
	resource *api.Resource
}

// check holds each input against the model and names those that do not keep it.
func (out *reading) check(inputs []input, account string) ([]checked, error) {
	m, err := model.AppMesh()
	if err != nil {
		return nil, err
	}
	var made []checked
	where := map[api.Key]string{}
	for i, in := range inputs {
		shape := "Create" + in.row.Type + "Input"
		for _, u := range unknownMembers(m, shape, in.doc) {
			out.notes = append(out.notes, in.member(u.path)+": "+u.text)
		}
		if found := m.Check(shape, in.doc); len(found) > 0 {
			for _, v := range found {
				out.faults = append(out.faults, in.place(v.Path)+": "+v.String())
			}
			out.faulty = append(out.faulty, keyOf(in, account))
			continue
		}
		r, err := resourceOf(in, account)
		if err != nil {
			out.faults = append(out.faults, in.where+": "+err.Error())
			continue
		}
		if first, twice := where[r.Key]; twice {
			out.faults = append(out.faults, fmt.Sprintf("%s: %s is in %s already: remove one of them", in.where, pathOf(r.Key, account), first))
			continue
		}
		where[r.Key] = in.where
		// Of routes that are alike the older one goes first, so the files stand for
		// creating them in their order.
		r.Created = time.Unix(int64(i), 0).UTC()
		made = append(made, checked{in, r})
	}
	return made, nil
}

// keyOf is the key of what an input makes, as far as it names it.
func keyOf(in input, account string) api.Key {
	text := func(member string) string {
		s, _ := in.doc[member].(string)
		return s
	}
	key := api.Key{Owner: account, Mesh: text("meshName"), Kind: in.row.Kind, Name: text(in.row.Name)}
	if owner := text("meshOwner"); owner != "" {
		key.Owner = owner
	}
	if in.row.Nested() {
		parent, _ := in.row.Parent.Row()
		key.Parent = text(parent.Name)
	}
	return key
}

// resourceOf makes the resource of a checked input.
func resourceOf(in input, account string) (*api.Resource, error) {
	key := keyOf(in, account)
	for _, name := range []string{key.Mesh, key.Parent, key.Name} {
		if strings.Contains(name, "/") || name == "." || name == ".." {
			return nil, fmt.Errorf("the name %q cannot be used: a name is neither '.' nor '..' and holds no slash", name)
		}
	}
	spec := in.doc["spec"]
	if spec == nil {
		spec = map[string]any{}
	}
	document, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	typed, err := api.DecodeSpec(key.Kind, document)
	if err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	return &api.Resource{Key: key, Version: 1, Owner: account, Document: document, Spec: typed, Revision: 1}, nil
}

// assumeMeshes adds the meshes that resources are in and no file holds.
func (out *reading) assumeMeshes(made *[]*api.Resource, account string) {
	have := map[api.Key]bool{}
	for _, r := range *made {
		if r.Key.Kind == api.KindMesh {
			have[r.Key] = true
		}
	}
	for _, r := range *made {
		k := r.Key.MeshKey()
		if have[k] {
			continue
		}
		have[k] = true
		*made = append(*made, &api.Resource{Key: k, Version: 1, Owner: k.Owner, Document: json.RawMessage(`{}`), Spec: &api.MeshSpec{}, Revision: 1})
		out.notes = append(out.notes, fmt.Sprintf("%s is in no file and taken with default settings: add the input of its create-mesh call if it has others", pathOf(k, account)))
	}
}

// keepRules applies the rules between resources in the order in which they
// could be created. What has no spec is faulty, and was told.
func (out *reading) keepRules(made []*api.Resource, where map[api.Key]string) {
	order := map[api.Kind]int{}
	for i, row := range api.Kinds() {
		order[row.Kind] = i
	}
	slices.SortStableFunc(made, func(a, b *api.Resource) int { return order[a.Key.Kind] - order[b.Key.Kind] })
	so := mesh.NewSnapshot(0, nil)
	for _, r := range made {
		if r.Spec == nil {
			so = so.Apply(0, []api.Change{{Key: r.Key, New: r}})
			continue
		}
		if err := mesh.Check(so, nil, r); err != nil {
			text := err.Error()
			if refusal, ok := errors.AsType[*api.Error](err); ok {
				text = refusal.Message
			}
			out.faults = append(out.faults, where[r.Key]+": "+oneLine(text))
			so = so.Apply(0, []api.Change{{Key: r.Key, New: &api.Resource{Key: r.Key, Owner: r.Owner}}})
			continue
		}
		so = so.Apply(0, []api.Change{{Key: r.Key, New: r}})
		out.resources = append(out.resources, r)
	}
}
