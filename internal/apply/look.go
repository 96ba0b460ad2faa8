package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// Action is what is to be done for an item, or was.
type Action string

// The actions.
const (
	Create    Action = "create"
	Update    Action = "update"
	Tag       Action = "tag" // the spec is as it should be, the tags are not
	Unchanged Action = "unchanged"
	Delete    Action = "delete"
	Gone      Action = "gone" // to be deleted, and not there any more
)

// State is how an item stands to what the control plane has.
type State struct {
	Action  Action
	Version int64  // of the resource as it is; 0 when it is not there
	ARN     string // empty when it is not there
	// Owner is the account that created the resource.
	Owner string
	// Before is the spec as it is; nil when it is not there.
	Before json.RawMessage
	// Set and Drop are the tags that differ: to be set, and to be removed.
	Set  []api.TagRef
	Drop []string
}

// described is the answer of every describe call.
type described struct {
	Metadata api.ResourceMetadata `json:"metadata"`
	Spec     json.RawMessage      `json:"spec"`
}

// Applier applies items. Client is required.
type Applier struct {
	Client *client.Client
	// Done is told of every item once it is settled; nil is allowed.
	Done func(Result)
}

// describe reads a resource; nil when it does not exist.
func (a *Applier) describe(ctx context.Context, k api.Key) (*described, error) {
	row, _ := k.Kind.Row()
	var out map[string]described
	err := a.Client.Call(ctx, "Describe"+row.Type, names(k), &out)
	if codeOf(err) == api.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d := out[row.Wrapper]
	return &d, nil
}

// Look tells what is to be done for an item. It writes nothing.
func (a *Applier) Look(ctx context.Context, i Item) (State, error) {
	d, err := a.describe(ctx, i.Key)
	switch {
	case err != nil:
		return State{}, err
	case d == nil && i.Doc == nil:
		return State{Action: Gone}, nil
	case d == nil:
		return State{Action: Create}, nil
	}
	out := State{Action: Unchanged, Version: d.Metadata.Version, ARN: d.Metadata.ARN, Owner: d.Metadata.ResourceOwner, Before: d.Spec}
	if i.Doc == nil {
		out.Action = Delete
		return out, nil
	}
	if want, says := i.tags(); says {
		have, err := a.tags(ctx, d.Metadata.ARN)
		if err != nil {
			return State{}, err
		}
		out.Set, out.Drop = differingTags(have, want)
		if len(out.Set)+len(out.Drop) > 0 {
			out.Action = Tag
		}
	}
	same, err := equal(d.Spec, i.spec())
	if err != nil {
		return State{}, fmt.Errorf("read %s: %w", i.Path(), err)
	}
	if !same {
		out.Action = Update
	}
	return out, nil
}

// equal compares a spec as it was read with one as a file has it.
func equal(have json.RawMessage, want any) (bool, error) {
	text, err := json.Marshal(want)
	if err != nil {
		return false, err
	}
	a, err := plain(have)
	if err != nil {
		return false, err
	}
	b, err := plain(text)
	if err != nil {
		return false, err
	}
	return reflect.DeepEqual(a, b), nil
}

func plain(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err
}

// tags reads all tags of a resource, in their order.
func (a *Applier) tags(ctx context.Context, arn string) ([]api.TagRef, error) {
	var out []api.TagRef
	in := map[string]any{"resourceArn": arn}
	for {
		var page api.ListTagsForResourceOutput
		if err := a.Client.Call(ctx, "ListTagsForResource", in, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Tags...)
		if page.NextToken == nil || *page.NextToken == "" {
			return out, nil
		}
		in["nextToken"] = *page.NextToken
	}
}

func differingTags(have []api.TagRef, want map[string]string) (set []api.TagRef, drop []string) {
	left := map[string]bool{}
	for k := range want {
		left[k] = true
	}
	for _, t := range have {
		value, wanted := want[t.Key]
		switch {
		case !wanted:
			drop = append(drop, t.Key)
		case value == t.Value:
			delete(left, t.Key)
		}
	}
	for k := range left {
		set = append(set, api.TagRef{Key: k, Value: want[k]})
	}
	slices.SortFunc(set, func(a, b api.TagRef) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	return set, drop
}

// encode writes JSON without HTML escapes, which would make a file differ from
// what it was made from.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// reread reads a decoded value as another type.
func reread(v, out any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// codeOf is the code of a refusal; empty for anything else.
func codeOf(err error) string {
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		return refusal.Code
	}
	return ""
}
