package store

import (
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// known are the resources' records as the watch told them last. A scope's first
// writer, and whoever reads from the store, takes from here what it would else decode
// again and hold twice: a record of one key and one revision is the same, whoever read it. Without a
// watch it is empty, and everything is decoded.
type known struct {
	mu      sync.RWMutex
	records map[string]*held // by tail
}

// take learns what a watch has read: these records in place of all others, or
// beside them.
func (k *known) take(reset bool, put []*held, gone []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if reset || k.records == nil {
		k.records = make(map[string]*held, len(put))
	}
	for _, tail := range gone {
		delete(k.records, tail)
	}
	for _, h := range put {
		k.records[h.Key] = h
	}
}

// decode is the package's decode for many values, but for what is known.
func (k *known) decode(s *Store, kvs []*mvccpb.KeyValue) []*held {
	out := make([]*held, len(kvs))
	k.mu.RLock()
	for i, kv := range kvs {
		if h := k.records[string(kv.Key[len(s.prefix):])]; h != nil && h.Revision == kv.ModRevision {
			out[i] = h
		}
	}
	k.mu.RUnlock()
	for i, kv := range kvs {
		if out[i] == nil {
			out[i] = decode(s.tail(kv.Key), kv)
		}
	}
	return out
}
