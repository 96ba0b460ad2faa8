package store

import (
	"bytes"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/evermesh/evermesh/internal/api"
)

// mostRecent and mostRecentBytes bound the writes that are remembered because
// their events have not come. A write counts twice its value: what it was made
// from is about as large.
const (
	mostRecent      = 1024
	mostRecentBytes = 16 << 20
)

// recent remembers the resources that this process has just written, so that
// their events, which bring the same bytes back, are not decoded again. An event
// is used as ever: a value that differs in one byte is decoded.
type recent struct {
	mu     sync.Mutex
	writes map[string]recentWrite // by tail
	bytes  int                    // of all writes
}

type recentWrite struct {
	value    []byte
	resource api.Resource
}

func (w recentWrite) size() int { return 2 * len(w.value) }

// put remembers what a transaction is about to write. Values with members that
// nobody here knows are left to decode.
func (r *recent) put(tx *Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tail, w := range tx.writes {
		if w.now == nil || w.now.resource == nil || w.now.raw != nil {
			continue
		}
		r.remove(tail)
		add := recentWrite{w.value, *w.now.resource}
		if r.writes == nil || len(r.writes) >= mostRecent || r.bytes+add.size() > mostRecentBytes {
			r.writes, r.bytes = map[string]recentWrite{}, 0
		}
		r.writes[tail] = add
		r.bytes += add.size()
	}
}

// drop forgets a transaction that did not succeed, or is not known to: its
// events may never come. Its scopes have no other writer here meanwhile.
func (r *recent) drop(tx *Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tail := range tx.writes {
		r.remove(tail)
	}
}

// clear forgets everything: what a watch has read as a whole brings no events.
func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes, r.bytes = nil, 0
}

// remove forgets a write; mu is held.
func (r *recent) remove(tail string) {
	r.bytes -= r.writes[tail].size()
	delete(r.writes, tail)
}

// take returns the record of an event, or nil where it has to be decoded.
func (r *recent) take(tail string, kv *mvccpb.KeyValue) *held {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.writes[tail]
	if !ok || !bytes.Equal(w.value, kv.Value) {
		return nil
	}
	r.remove(tail)
	out := w.resource
	out.Revision = kv.ModRevision
	t := resourceType(out.Key.Kind)
	return &held{Record: Record{Key: tail, Type: t.Name, Schema: t.Schema, Revision: kv.ModRevision}, resource: &out}
}
