package store

import (
	"bytes"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/evermesh/evermesh/internal/api"
)

// mostRecent bounds how many writes are remembered whose events have not come.
const mostRecent = 1024

// recent remembers the resources that this process has just written, so that
// their events, which bring the same bytes back, are not decoded again. An event
// is used as ever: a value that differs in one byte is decoded.
type recent struct {
	mu     sync.Mutex
	writes map[string]recentWrite // by tail
}

type recentWrite struct {
	value    []byte
	resource api.Resource
}

// put remembers what a transaction is about to write. Values with members that
// nobody here knows are left to decode.
func (r *recent) put(tx *Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tail, w := range tx.writes {
		if w.now == nil || w.now.resource == nil || w.now.raw != nil {
			continue
		}
		if r.writes == nil || len(r.writes) >= mostRecent {
			r.writes = map[string]recentWrite{}
		}
		r.writes[tail] = recentWrite{w.value, *w.now.resource}
	}
}

// take returns the record of an event, or nil where it has to be decoded.
func (r *recent) take(tail string, kv *mvccpb.KeyValue) *held {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.writes[tail]
	if !ok || !bytes.Equal(w.value, kv.Value) {
		return nil
	}
	delete(r.writes, tail)
	out := w.resource
	out.Revision = kv.ModRevision
	t := resourceType(out.Key.Kind)
	return &held{Record: Record{Key: tail, Type: t.Name, Schema: t.Schema, Revision: kv.ModRevision}, resource: &out}
}
