package store

import (
	"context"
	"sync"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Event is one that Tx.Outbox put beside a write (D2). Nobody but who has kept it
// elsewhere removes it.
type Event struct {
	Key   string // outbox/<id>
	Value []byte
}

const (
	// mostOutgoing bounds the events that this process remembers because it
	// committed them; the others are read.
	mostOutgoing = 4096
	// outboxBatch is how many events one transaction removes.
	outboxBatch = 100
)

// outgoing remembers the events that this process committed, for who moves them
// not to read what was just written.
type outgoing struct {
	mu     sync.Mutex
	events []Event
	wake   chan struct{} // nil until somebody asks
}

func (o *outgoing) add(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wake == nil || len(o.events) >= mostOutgoing {
		return
	}
	o.events = append(o.events, e)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Outgoing receives when this process has committed events; Committed has them.
func (s *Store) Outgoing() <-chan struct{} {
	s.outgoing.mu.Lock()
	defer s.outgoing.mu.Unlock()
	if s.outgoing.wake == nil {
		s.outgoing.wake = make(chan struct{}, 1)
	}
	return s.outgoing.wake
}

// Committed takes the events that this process committed since the last call, and
// since somebody asks for Outgoing; very many at once are not all among them.
func (s *Store) Committed() []Event {
	s.outgoing.mu.Lock()
	defer s.outgoing.mu.Unlock()
	events := s.outgoing.events
	s.outgoing.events = nil
	return events
}

// Outbox reads events of all replicas, in no order, at most limit of them, behind
// the key after; more says that there are others.
func (s *Store) Outbox(ctx context.Context, after string, limit int) (events []Event, more bool, err error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	prefix := s.key(outboxTail)
	from := prefix
	if after != "" {
		from = behind(s.key(after))
	}
	resp, err := s.client.Get(bounded, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, false, s.failure(ctx, "read outbox", err)
	}
	for _, kv := range resp.Kvs {
		events = append(events, Event{s.tail(kv.Key), kv.Value})
	}
	return events, resp.More, nil
}

// Moved removes events that are kept elsewhere; also where the store takes no
// writes, as it makes room.
func (s *Store) Moved(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		n := min(outboxBatch, len(keys))
		ops := make([]clientv3.Op, n)
		for i, key := range keys[:n] {
			ops[i] = clientv3.OpDelete(s.key(key))
		}
		bounded, cancel := s.bounded(ctx)
		_, err := s.client.Txn(bounded).Then(ops...).Commit()
		cancel()
		if err != nil {
			return s.failure(ctx, "remove from outbox", err)
		}
		keys = keys[n:]
	}
	return nil
}

// outboxOp puts the transaction's event, without a lease: it stays until it is
// moved, however long that takes.
func (s *Store) outboxOp(tx *Tx) clientv3.Op {
	tx.outboxKey = outboxTail + uuid.NewString()
	return s.putOp(tx.outboxKey, tx.outbox)
}
