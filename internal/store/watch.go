package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
)

const (
	watchBackoffLeast = 50 * time.Millisecond
	watchBackoffMost  = 5 * time.Second
)

// Batch is what one revision changed: all of it, and nothing else. With Reset
// it is everything that there is at the revision, and replaces what was known.
type Batch struct {
	Revision int64
	Reset    bool
	Changes  []api.Change
}

// RecordBatch is Batch for records that are no resources.
type RecordBatch struct {
	Revision int64
	Reset    bool
	Records  []Record // new or rewritten
	Gone     []string // keys of the removed
}

// Watch calls fn with everything at one revision, a Reset, and then with each
// later change in order, none left out, none twice. A lost connection or leader
// is waited for; where etcd has compacted away what was missed, another Reset
// follows. What this program cannot read is left as it was, with a warning.
// Watch returns when ctx ends, with its error, or when fn fails, with fn's.
func (s *Store) Watch(ctx context.Context, fn func(Batch) error) error {
	f := follower{
		store: s, tail: meshTail,
		reset: func(revision int64, all []*mvccpb.KeyValue) error {
			return fn(Batch{Revision: revision, Reset: true, Changes: s.changes(true, all, nil)})
		},
		step: func(revision int64, put, gone []*mvccpb.KeyValue) error {
			return fn(Batch{Revision: revision, Changes: s.changes(false, put, gone)})
		},
	}
	return f.run(ctx)
}

// changes are what a watch has read, all that there is or what one revision
// changed.
func (s *Store) changes(reset bool, put, gone []*mvccpb.KeyValue) []api.Change {
	out := make([]api.Change, 0, len(put)+len(gone))
	read, removed := make([]*held, 0, len(put)), make([]string, 0, len(gone))
	for _, kv := range gone {
		tail := s.tail(kv.Key)
		removed = append(removed, tail)
		if key, err := api.ParseKey(strings.TrimPrefix(tail, meshTail)); err == nil {
			out = append(out, api.Change{Key: key})
		}
	}
	for _, kv := range put {
		tail := s.tail(kv.Key)
		h := s.recent.take(tail, kv)
		if h == nil {
			h = decode(tail, kv)
		}
		read = append(read, h)
		if h.unread != nil {
			s.options.Log.Warn("record was written by a newer release and is left out", "key", h.Key, "err", h.unread)
			continue
		}
		out = append(out, api.Change{Key: h.resource.Key, New: h.resource})
	}
	if reset {
		s.recent.clear()
	}
	s.known.take(reset, read, removed)
	return out
}

// WatchRecords is Watch for the records below a tail, such as account/.
func (s *Store) WatchRecords(ctx context.Context, tail string, fn func(RecordBatch) error) error {
	f := follower{
		store: s, tail: tail,
		reset: func(revision int64, all []*mvccpb.KeyValue) error {
			return fn(RecordBatch{Revision: revision, Reset: true, Records: s.records(all)})
		},
		step: func(revision int64, put, gone []*mvccpb.KeyValue) error {
			b := RecordBatch{Revision: revision, Records: s.records(put)}
			for _, kv := range gone {
				b.Gone = append(b.Gone, s.tail(kv.Key))
			}
			return fn(b)
		},
	}
	return f.run(ctx)
}

func (s *Store) records(kvs []*mvccpb.KeyValue) []Record {
	out := make([]Record, 0, len(kvs))
	for _, kv := range kvs {
		h := decode(s.tail(kv.Key), kv)
		if h.unread != nil {
			s.options.Log.Warn("record cannot be read and is left out", "key", h.Key, "err", h.unread)
			continue
		}
		out = append(out, h.Record)
	}
	return out
}

// follower watches all keys below a tail.
type follower struct {
	store *Store
	tail  string
	reset func(revision int64, all []*mvccpb.KeyValue) error
	step  func(revision int64, put, gone []*mvccpb.KeyValue) error

	next int64 // revision to go on from; 0 when a reset is due
	wait time.Duration
}

// stopped is an error of the functions that are told; it ends the watch.
type stopped struct{ error }

func (f *follower) run(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		var end stopped
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &end):
			return end.error
		case says(err, textCompacted):
			f.store.options.Log.Info("history was compacted, everything is read again", "revision", f.next)
			f.next = 0
		case err != nil:
			f.store.options.Log.Warn("watch was interrupted and is begun again", "err", err)
		}
		f.wait = min(max(2*f.wait, watchBackoffLeast), watchBackoffMost)
		select {
		case <-time.After(f.wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow watches until something fails.
func (f *follower) follow(ctx context.Context) error {
	s := f.store
	if f.next == 0 {
		kvs, revision, err := f.everything(ctx)
		if err != nil {
			return err
		}
		if err := f.reset(revision, kvs); err != nil {
			return stopped{err}
		}
		f.next = revision + 1
	}
	// Its own context ends the watch in etcd when this function returns. A
	// member that lost its leader ends it too, instead of going silent.
	watching, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	events := s.client.Watch(watching, s.key(f.tail), clientv3.WithPrefix(), clientv3.WithRev(f.next), clientv3.WithProgressNotify())
	for resp := range events {
		if err := resp.Err(); err != nil {
			return err
		}
		f.wait = 0
		if err := f.take(resp.Events); err != nil {
			return stopped{err}
		}
		if resp.IsProgressNotify() {
			// Nothing came for long, and nothing before this is outstanding.
			f.next = max(f.next, resp.Header.Revision+1)
		}
	}
	return errors.New("the watch ended")
}

// everything reads all at one revision.
func (f *follower) everything(ctx context.Context) ([]*mvccpb.KeyValue, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 6*f.store.options.Timeout)
	defer cancel()
	return f.store.all(ctx, f.store.key(f.tail))
}

// take tells the events revision by revision; etcd never splits one.
func (f *follower) take(events []*clientv3.Event) error {
	for len(events) > 0 {
		revision := events[0].Kv.ModRevision
		var put, gone []*mvccpb.KeyValue
		for len(events) > 0 && events[0].Kv.ModRevision == revision {
			if e := events[0]; e.Type == clientv3.EventTypeDelete {
				gone = append(gone, e.Kv)
			} else {
				put = append(put, e.Kv)
			}
			events = events[1:]
		}
		if revision < f.next {
			continue
		}
		if err := f.step(revision, put, gone); err != nil {
			return err
		}
		f.next = revision + 1
	}
	return nil
}
