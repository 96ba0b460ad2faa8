package store

import (
	"bytes"
	"slices"
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
	writes map[string][]recentWrite // by tail, in their order: events may be behind
	number int                      // of all writes
	bytes  int                      // of all writes
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
		add := recentWrite{w.value, *w.now.resource}
		if r.writes == nil || r.number >= mostRecent || r.bytes+add.size() > mostRecentBytes {
			r.writes, r.number, r.bytes = map[string][]recentWrite{}, 0, 0
		}
		r.writes[tail] = append(r.writes[tail], add)
		r.number++
		r.bytes += add.size()
	}
}

// drop forgets a transaction that did not succeed, or is not known to: its
// events may never come. Its scopes have no other writer here meanwhile.
func (r *recent) drop(tx *Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tail := range tx.writes {
		r.remove(tail, len(r.writes[tail]))
	}
}

// clear forgets everything: what a watch has read as a whole brings no events.
func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes, r.number, r.bytes = nil, 0, 0
}

// remove forgets the first n writes of a key; mu is held.
func (r *recent) remove(tail string, n int) {
	all := r.writes[tail]
	for _, w := range all[:n] {
		r.bytes -= w.size()
	}
	r.number -= n
	if n == len(all) {
		delete(r.writes, tail)
		return
	}
	r.writes[tail] = slices.Delete(all, 0, n)
}

// take returns the record of an event, or nil where it has to be decoded.
func (r *recent) take(tail string, kv *mvccpb.KeyValue) *held {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.writes[tail], func(w recentWrite) bool { return bytes.Equal(w.value, kv.Value) })
	if at < 0 {
		return nil
	}
	out := r.writes[tail][at].resource
	r.remove(tail, at+1) // events come in the order of writes
	out.Revision = kv.ModRevision
	t := resourceType(out.Key.Kind)
	return &held{Record: Record{Key: tail, Type: t.Name, Schema: t.Schema, Revision: kv.ModRevision}, resource: &out}
}
