package fields

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
)

// account owns all meshes here.
const account = "123456789012"

// resource is one resource as a scene's base has it.
type resource struct {
	Kind   api.Kind `json:"kind"`
	Parent string   `json:"parent"` // of a route or gateway route
	Name   string   `json:"name"`
	Spec   any      `json:"spec"`
}

// parseBase reads the list of resources that a scene's base is. The mesh is
// there without being said.
func parseBase(name, base string) ([]resource, error) {
	var out []resource
	if err := yaml.UnmarshalStrict([]byte(base), &out); err != nil {
		return nil, fmt.Errorf("base of %s: %w", name, err)
	}
	if !slices.ContainsFunc(out, func(r resource) bool { return r.Kind == api.KindMesh }) {
		out = append([]resource{{Kind: api.KindMesh}}, out...)
	}
	for i := range out {
		if out[i].Spec == nil {
			out[i].Spec = map[string]any{}
		}
	}
	return out, nil
}

// edit is a line of given or change, read.
type edit struct {
	kind         api.Kind
	parent, name string
	path         []any // member names and list positions
	value        any   // nil takes away
}

var editLine = regexp.MustCompile(`^(\w+)(?: (\S+))? (\S+) = (.+)$`)

// parseEdit reads KIND NAME PATH = JSON.
func parseEdit(line string) (edit, error) {
	m := editLine.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return edit{}, fmt.Errorf("%q is not KIND NAME PATH = JSON", line)
	}
	e := edit{kind: api.Kind(m[1]), name: m[2]}
	if parent, name, ok := strings.Cut(m[2], "/"); ok {
		e.parent, e.name = parent, name
	}
	if _, ok := e.kind.Row(); !ok {
		return edit{}, fmt.Errorf("%q: there is no kind %q", line, m[1])
	}
	for part := range strings.SplitSeq(m[3], ".") {
		member, rest, _ := strings.Cut(part, "[")
		e.path = append(e.path, member)
		for rest != "" {
			var number string
			number, rest, _ = strings.Cut(rest, "]")
			i, err := strconv.Atoi(number)
			if err != nil {
				return edit{}, fmt.Errorf("%q: position %q: %w", line, number, err)
			}
			e.path = append(e.path, i)
			rest = strings.TrimPrefix(rest, "[")
		}
	}
	dec := json.NewDecoder(strings.NewReader(m[4]))
	dec.UseNumber()
	if err := dec.Decode(&e.value); err != nil {
		return edit{}, fmt.Errorf("%q: %w", line, err)
	}
	return e, nil
}

// leaf is the path of what the edit changes, as leaves has it.
func (e edit) leaf() string {
	row, _ := e.kind.Row()
	var b strings.Builder
	b.WriteString(row.Type + "Spec")
	for _, step := range e.path {
		if name, ok := step.(string); ok {
			b.WriteString("." + name)
		} else {
			b.WriteString("[]")
		}
	}
	return b.String()
}

// apply returns the resources with the edit made; those it was given stay as they
// are.
func (e edit) apply(all []resource) ([]resource, error) {
	all = slices.Clone(all)
	for i, r := range all {
		if r.Kind != e.kind || r.Parent != e.parent || r.Name != e.name {
			continue
		}
		spec, err := put(r.Spec, e.path, e.value)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", e.kind, e.name, err)
		}
		all[i].Spec = spec
		return all, nil
	}
	return nil, fmt.Errorf("there is no %s %s to edit", e.kind, e.name)
}

// put is a document with the value at the path; nil takes it away, and a list
// that it leaves empty as well.
func put(doc any, path []any, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	switch step := path[0].(type) {
	case string:
		old, _ := doc.(map[string]any)
		if old == nil && doc != nil {
			return nil, fmt.Errorf("%q is looked for in what is no structure", step)
		}
		inner, err := put(old[step], path[1:], value)
		if err != nil {
			return nil, err
		}
		members := maps.Clone(old)
		if members == nil {
			members = map[string]any{}
		}
		if list, ok := inner.([]any); inner == nil || (ok && len(list) == 0) {
			delete(members, step)
		} else {
			members[step] = inner
		}
		return members, nil
	case int:
		list, _ := doc.([]any)
		if step > len(list) {
			return nil, fmt.Errorf("position %d of a list of %d", step, len(list))
		}
		list = slices.Clone(list)
		if step == len(list) {
			list = append(list, nil)
		}
		inner, err := put(list[step], path[1:], value)
		if err != nil {
			return nil, err
		}
		if list[step] = inner; inner == nil {
			list = slices.Delete(list, step, step+1)
		}
		return list, nil
	}
	return nil, fmt.Errorf("step %v", path[0])
}

// edited is all with the lines' edits made.
func edited(all []resource, lines string) ([]resource, error) {
	for line := range strings.Lines(lines) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		e, err := parseEdit(line)
		if err != nil {
			return nil, err
		}
		if all, err = e.apply(all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// snapshot is the mesh of that name with the resources, if the API would take
// them, written in their order.
func snapshot(name string, revision int64, all []resource) (*mesh.Snapshot, error) {
	m, err := model.AppMesh()
	if err != nil {
		return nil, err
	}
	s := mesh.NewSnapshot(revision, nil)
	var written []*api.Resource
	for i, r := range all {
		key := api.Key{Owner: account, Mesh: name, Kind: r.Kind, Parent: r.Parent, Name: r.Name}
		if r.Kind == api.KindMesh {
			key.Name = name
		}
		row, _ := r.Kind.Row()
		// A copy: the check takes away what it does not know.
		before, err := json.Marshal(r.Spec)
		if err != nil {
			return nil, err
		}
		dec := json.NewDecoder(bytes.NewReader(before))
		dec.UseNumber()
		var doc any
		if err := dec.Decode(&doc); err != nil {
			return nil, err
		}
		if wrong := m.Check(row.Type+"Spec", doc); len(wrong) > 0 {
			return nil, api.Errorf(api.CodeBadRequest, "%s", model.Message(wrong))
		}
		text, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(before, text) {
			return nil, fmt.Errorf("%s %s has members that the model does not know: %s", r.Kind, r.Name, before)
		}
		spec, err := api.DecodeSpec(r.Kind, text)
		if err != nil {
			return nil, err
		}
		now := &api.Resource{Key: key, Owner: account, Version: 1, Created: time.Unix(int64(60*i), 0), Spec: spec, Document: text}
		if err := mesh.Check(s, nil, now); err != nil {
			return nil, err
		}
		s = s.Apply(revision, []api.Change{{Key: key, New: now}})
		written = append(written, now)
	}
	return mesh.NewSnapshot(revision, written), nil
}
