package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/evermesh/evermesh/internal/api"
)

// Type is a type of records: its name, the version of its schema that this
// program writes, and the members of a body that it knows. Other members are
// kept when a record is rewritten.
type Type struct {
	Name    string
	Schema  int
	Members []string
}

// Record is one stored thing. Body is its JSON object.
type Record struct {
	Key      string // account/<id>/key/<access key id>
	Type     string
	Schema   int
	Body     json.RawMessage
	Revision int64 // that wrote it
}

// held is a record in memory.
type held struct {
	Record
	// raw is the stored value when it has members that nobody here knows.
	raw []byte
	// resource is what the record of a resource says.
	resource *api.Resource
	// unread is why the record of a resource cannot be read.
	unread error
}

// resourceSchema is the schema of resources that this program writes.
const resourceSchema = 1

// resourceBody is the body of a resource's record. The spec is kept as it was
// accepted.
type resourceBody struct {
	UID     string          `json:"uid"`
	Version int64           `json:"version"`
	Created time.Time       `json:"created"`
	Updated time.Time       `json:"updated"`
	Owner   string          `json:"owner"`
	Tags    []api.TagRef    `json:"tags,omitempty"`
	Spec    json.RawMessage `json:"spec"`
	// Settings are a mesh's (D11).
	Settings api.MeshSettings `json:"settings,omitzero"`
}

// resourceType is the type of a kind's records.
func resourceType(kind api.Kind) Type {
	return Type{Name: string(kind), Schema: resourceSchema, Members: []string{"uid", "version", "created", "updated", "owner", "tags", "spec", "settings"}}
}

// envelope is the outside of a stored value.
type envelope struct {
	Type   string          `json:"type"`
	Schema int             `json:"schema"`
	Body   json.RawMessage `json:"body"`
}

// envelopeMembers are the members of a stored value.
var envelopeMembers = []string{"type", "schema", "body"}

// encode makes the value of a record. before is the value that it replaces, or
// nil: members of it that this program does not know go on.
func encode(t Type, body any, before []byte) ([]byte, error) {
	now, err := marshal(body)
	if err != nil {
		return nil, err
	}
	if len(before) == 0 {
		return wrap(t, now), nil
	}
	old, err := members(before)
	if err != nil {
		return nil, err
	}
	if now, err = carry(old["body"], now, t.Members); err != nil {
		return nil, err
	}
	return carry(before, wrap(t, now), envelopeMembers)
}

// wrap is the envelope around a body, which is JSON already and is not looked at
// again.
func wrap(t Type, body []byte) []byte {
	out := make([]byte, 0, len(t.Name)+len(body)+48)
	out = append(out, `{"type":`...)
	out = strconv.AppendQuote(out, t.Name) // a word: as in JSON
	out = append(out, `,"schema":`...)
	out = strconv.AppendInt(out, int64(t.Schema), 10)
	out = append(out, `,"body":`...)
	return append(append(out, body...), '}')
}

// carry adds to an object those members of an earlier one that are not known.
func carry(before, now []byte, known []string) ([]byte, error) {
	if len(before) == 0 {
		return now, nil
	}
	old, err := members(before)
	if err != nil {
		return nil, err
	}
	for _, name := range known {
		delete(old, name)
	}
	if len(old) == 0 {
		return now, nil
	}
	all, err := members(now)
	if err != nil {
		return nil, err
	}
	maps.Copy(old, all)
	return marshal(old)
}

func members(object []byte) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if len(object) == 0 {
		return out, nil
	}
	err := json.Unmarshal(object, &out)
	return out, err
}

// marshal is json.Marshal without HTML's escapes: specs stay as they were sent.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// decode reads a stored value. tail is its key below <prefix>/v1/.
func decode(tail string, kv *mvccpb.KeyValue) *held {
	h := &held{Record: Record{Key: tail, Revision: kv.ModRevision}}
	all, err := members(kv.Value)
	var e envelope
	if err == nil {
		err = json.Unmarshal(kv.Value, &e)
	}
	if err != nil {
		h.unread = fmt.Errorf("read %s: %w", tail, err)
		h.raw = kv.Value
		return h
	}
	h.Type, h.Schema, h.Body = e.Type, e.Schema, e.Body
	strange := func(all map[string]json.RawMessage, known []string) bool {
		for name := range all {
			if !slices.Contains(known, name) {
				return true
			}
		}
		return false
	}
	if strange(all, envelopeMembers) {
		h.raw = kv.Value
	}
	path, ok := strings.CutPrefix(tail, meshTail)
	if !ok {
		// Which members of it are known, only its writer can say.
		h.raw = kv.Value
		return h
	}
	if h.resource, err = decodeResource(path, h.Record); err != nil {
		h.unread = fmt.Errorf("read %s, which was written with schema %d: %w", tail, h.Schema, err)
		h.raw = kv.Value
		return h
	}
	if body, err := members(h.Body); err != nil || h.raw == nil && strange(body, resourceType("").Members) {
		h.raw = kv.Value
	}
	h.Body = nil // the resource says it all
	return h
}

func decodeResource(path string, r Record) (*api.Resource, error) {
	key, err := api.ParseKey(path)
	if err != nil {
		return nil, err
	}
	var b resourceBody
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return nil, err
	}
	spec, err := api.DecodeSpec(key.Kind, b.Spec)
	if err != nil {
		return nil, err
	}
	return &api.Resource{
		Key: key, UID: b.UID, Version: b.Version, Created: b.Created, Updated: b.Updated, Owner: b.Owner,
		Tags: b.Tags, Document: b.Spec, Spec: spec, Settings: b.Settings, Revision: r.Revision,
	}, nil
}

// encodeResource makes the record of a resource, to replace before.
func encodeResource(r *api.Resource, before *held) (*held, []byte, error) {
	kept := *r
	// As it will be read: no monotonic clock, UTC, no empty list.
	kept.Created, kept.Updated = r.Created.Round(0).UTC(), r.Updated.Round(0).UTC()
	if len(kept.Tags) == 0 {
		kept.Tags = nil
	}
	if len(kept.Document) == 0 {
		kept.Document = json.RawMessage("{}")
	}
	t := resourceType(r.Key.Kind)
	var raw []byte
	if before != nil {
		raw = before.raw
	}
	value, err := encode(t, resourceBody{
		UID: kept.UID, Version: kept.Version, Created: kept.Created, Updated: kept.Updated, Owner: kept.Owner,
		Tags: kept.Tags, Spec: kept.Document, Settings: kept.Settings,
	}, raw)
	if err != nil {
		return nil, nil, err
	}
	h := &held{Record: Record{Key: meshTail + r.Key.String(), Type: t.Name, Schema: t.Schema}, resource: &kept}
	if raw != nil {
		h.raw = value
	}
	return h, value, nil
}
