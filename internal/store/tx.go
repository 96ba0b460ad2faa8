package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Tx is a transaction on a few scopes. It reads them as of one revision, with
// its own writes on top; it is a mesh.Reader. A Tx is for the goroutine that
// runs the function given to Update, and for no longer than that. A key outside
// of its scopes reads as absent, and Update fails.
type Tx struct {
	memories []*memory
	writes   map[string]*write
	token    *Token
	outbox   []byte
	// outboxKey is where it was put.
	outboxKey string
	err       error
}

// newTx makes a transaction. It has failed already where a scope holds what
// this program cannot read: rules that cannot see everything decide nothing.
func newTx(memories []*memory) *Tx {
	tx := &Tx{memories: memories, writes: map[string]*write{}}
	for _, m := range memories {
		for tail, err := range m.unread {
			tx.fail(unavailable("This replica is older than another that wrote %s, and does not write to %s until it is upgraded too: %v.", tail, m.Scope, err))
		}
	}
	return tx
}

// write is what becomes of one key: now is nil when it is deleted.
type write struct {
	memory *memory
	now    *held
	value  []byte
}

// Token is the idempotency record of a write (API-031): a repeat of the request
// finds it under its key, for 8 hours at least.
type Token struct {
	Key         string          `json:"-"`           // any text
	Fingerprint string          `json:"fingerprint"` // of the request's input
	Result      json.RawMessage `json:"result"`      // the answer that the first request got
	// Revision is the store's when it was claimed, as it is read. A claim with the revision
	// of another token of the key takes its place; 0 is for a key that nobody has claimed.
	Revision int64 `json:"-"`
}

// value is the token's JSON. The result in it is JSON already and is not looked
// at again.
func (t *Token) value() []byte {
	fingerprint, _ := json.Marshal(t.Fingerprint) // a text always can be
	result := t.Result
	if len(result) == 0 {
		result = json.RawMessage("null")
	}
	return slices.Concat([]byte(`{"fingerprint":`), fingerprint, []byte(`,"result":`), result, []byte("}"))
}

// TokenTaken is Update's error when another write has claimed the token, and when the one
// that a claim was to replace is another by now; that one is all but empty if it is gone.
type TokenTaken struct{ Token Token }

func (e *TokenTaken) Error() string { return "client token was used by an earlier write" }

// Get returns the resource, or nil when it does not exist.
func (tx *Tx) Get(key api.Key) *api.Resource {
	h := tx.find(meshTail + key.String())
	if h == nil {
		return nil
	}
	return h.resource
}

// List returns the resources of a kind under a parent, sorted by name: under a
// mesh's key, or under a router's or gateway's. Meshes are listed under a key
// that names their owner, as far as they are in the transaction's scopes.
func (tx *Tx) List(kind api.Kind, parent api.Key) []*api.Resource {
	if kind == api.KindMesh {
		var out []*api.Resource
		for _, m := range tx.memories {
			if m.isMesh() {
				out = append(out, tx.list(m, group{kind, ""})...)
			}
		}
		return sorted(slices.DeleteFunc(out, func(r *api.Resource) bool { return r.Key.Owner != parent.Owner }))
	}
	m := tx.memory(MeshScope(parent.Owner, parent.Mesh).path + "/")
	if m == nil {
		return nil
	}
	name := ""
	if row, _ := kind.Row(); row.Nested() {
		name = parent.Name
	}
	return sorted(tx.list(m, group{kind, name}))
}

func (tx *Tx) list(m *memory, g group) []*api.Resource {
	var out []*api.Resource
	for _, h := range m.groups[g] {
		if tx.writes[h.Key] == nil {
			out = append(out, h.resource)
		}
	}
	for _, w := range tx.writes {
		if w.memory == m && w.now != nil && w.now.resource != nil && groupOf(w.now.resource.Key) == g {
			out = append(out, w.now.resource)
		}
	}
	return out
}

func sorted(list []*api.Resource) []*api.Resource {
	slices.SortFunc(list, func(a, b *api.Resource) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	return list
}

// Put creates or replaces a resource. The store keeps a copy with the revision
// of the write. A resource that a newer release wrote, in a form that this one
// does not know, is not replaced: Update fails (D12).
func (tx *Tx) Put(r *api.Resource) {
	tail := meshTail + r.Key.String()
	m, before, ok := tx.writable(tail, resourceType(r.Key.Kind))
	if !ok {
		return
	}
	now, value, err := encodeResource(r, before)
	if err != nil {
		tx.fail(fmt.Errorf("encode %s: %w", tail, err))
		return
	}
	tx.writes[tail] = &write{m, now, value}
}

// Delete removes a resource. Removing what is absent does nothing.
func (tx *Tx) Delete(key api.Key) { tx.remove(meshTail+key.String(), resourceType(key.Kind)) }

// Claim makes the write idempotent: it commits only if nobody has claimed the
// token's key, or the claim is still that of its Revision, and keeps the token with it;
// else Update returns *TokenTaken.
func (tx *Tx) Claim(t Token) { tx.token = &t }

// Outbox puts an event beside the write, committed with it or not at all: the
// audit trail's (D2). It stays in the store until Moved; nil puts none.
func (tx *Tx) Outbox(event []byte) { tx.outbox = event }

// Record returns a record that is no resource, or nil; tail is a Scope.Tail.
func (tx *Tx) Record(tail string) *Record {
	h := tx.find(tail)
	if h == nil {
		return nil
	}
	return &h.Record
}

// Records returns the records that are no resources below a tail, in the order of
// their keys; tail is what a Scope.Tail begins with, up to a slash.
func (tx *Tx) Records(tail string) []Record {
	m := tx.memory(tail)
	if m == nil {
		return nil
	}
	var out []Record
	for key, h := range m.records {
		if tx.writes[key] == nil && strings.HasPrefix(key, tail) {
			out = append(out, h.Record)
		}
	}
	for key, w := range tx.writes {
		if w.now != nil && strings.HasPrefix(key, tail) {
			out = append(out, w.now.Record)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// PutRecord creates or replaces a record that is no resource; body becomes its
// JSON object. As with Put, members that t does not know are kept, and what has
// a newer schema is not replaced.
func (tx *Tx) PutRecord(t Type, tail string, body any) {
	m, before, ok := tx.writable(tail, t)
	if !ok {
		return
	}
	var raw []byte
	if before != nil {
		raw = before.raw
	}
	value, err := encode(t, body, raw)
	var e envelope
	if err == nil {
		err = json.Unmarshal(value, &e)
	}
	if err != nil {
		tx.fail(fmt.Errorf("encode %s: %w", tail, err))
		return
	}
	tx.writes[tail] = &write{m, &held{Record: Record{Key: tail, Type: t.Name, Schema: t.Schema, Body: e.Body}, raw: value}, value}
}

// DeleteRecord removes a record of the type.
func (tx *Tx) DeleteRecord(t Type, tail string) { tx.remove(tail, t) }

func (tx *Tx) remove(tail string, t Type) {
	m, _, ok := tx.writable(tail, t)
	switch {
	case !ok:
	case m.records[tail] == nil:
		delete(tx.writes, tail) // it was made in this transaction, if at all
	default:
		tx.writes[tail] = &write{memory: m}
	}
}

// writable finds the scope of a key and what is there; ok is false, and the
// transaction has failed, when this program must not write it.
func (tx *Tx) writable(tail string, t Type) (m *memory, before *held, ok bool) {
	if m = tx.memory(tail); m == nil {
		return nil, nil, false
	}
	before = tx.find(tail)
	if before != nil && before.Schema > t.Schema {
		tx.fail(unavailable("This replica is older than another that wrote %s (schema %d, this one knows %d), and does not write it until it is upgraded too.", tail, before.Schema, t.Schema))
		return nil, nil, false
	}
	return m, before, true
}

func (tx *Tx) find(tail string) *held {
	m := tx.memory(tail)
	if m == nil {
		return nil
	}
	if w := tx.writes[tail]; w != nil {
		return w.now
	}
	return m.records[tail]
}

func (tx *Tx) memory(tail string) *memory {
	for _, m := range tx.memories {
		if m.holds(tail) {
			return m
		}
	}
	tx.fail(fmt.Errorf("transaction touches %s, which is in none of its scopes", tail))
	return nil
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// tails are the written keys in order.
func (tx *Tx) tails() []string { return slices.Sorted(maps.Keys(tx.writes)) }
