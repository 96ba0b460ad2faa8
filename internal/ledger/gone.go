package ledger

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// A replica that was killed, or that lost the store, leaves its rows. Which
// proxies it had is in them: one that came too late to be written has been ended
// by then (Writer.Lost). Whoever of them is seen at another replica has moved, is
// taken out of the row, and is not waited for; when no proxy is left, the replica
// is forgotten. The others may still be connected to it and stay unknown, until
// their streams must have ended.

// goneAfter is when a silent replica's rows are believed to be complete.
const goneAfter = time.Minute

// gone says whether the replica has been silent for so long.
func gone(r api.Replica, now time.Time) bool { return now.Sub(r.SeenAt.Time) > goneAfter }

// orphansEvery is at which sweeps all rows are looked at, for those that a removed
// replica left.
const orphansEvery = 120

// sweep looks after the rows of silent replicas. Those that can have no streams
// are removed: of replicas that are forgotten, and of one in whose place this one
// is, on the same host with the same address.
func (w *Writer) sweep(ctx context.Context) error {
	replicas, err := w.replicas(ctx)
	if err != nil {
		return err
	}
	ends, silent := w.quiet(replicas)
	w.sweeps++
	if len(ends)+len(silent) == 0 && w.sweeps%orphansEvery != 1 {
		return nil
	}
	values, err := w.Store.Read(ctx, rowPrefix)
	if err != nil {
		return err
	}
	rows, err := joined(values, func(place) bool { return true })
	if err != nil {
		return err
	}
	// Of a replica that has rows its own was written before them: read after them,
	// it is there, also if it started or came back just now.
	if replicas, err = w.replicas(ctx); err != nil {
		return err
	}
	ends, silent = w.quiet(replicas)
	ops, left, err := w.moved(rows, replicas, ends, silent)
	if err != nil {
		return err
	}
	// Rows without their replica would belong to nobody: it goes last.
	for _, r := range replicas {
		if ends[r.ID] || (silent[r.ID] && !left[r.ID]) {
			ops = append(ops, store.Op{Key: replicaKey(r.ID)})
		}
	}
	for batch := range store.Batches(ops) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return err
		}
	}
	return nil
}

// replicas are those that have a row of their own.
func (w *Writer) replicas(ctx context.Context) ([]api.Replica, error) {
	values, err := w.Store.Read(ctx, replicaPrefix)
	if err != nil {
		return nil, err
	}
	return decodeAll[api.Replica](values)
}

// quiet tells which other replicas can have no streams any more, and which have
// only been silent for long.
func (w *Writer) quiet(replicas []api.Replica) (ends, silent map[string]bool) {
	now := w.Now()
	ends, silent = map[string]bool{}, map[string]bool{}
	for _, r := range replicas {
		quiet := now.Sub(r.SeenAt.Time)
		switch {
		case r.ID == w.Replica.ID:
		case quiet > forgottenAfter, quiet > silentAfter && w.succeeds(r):
			ends[r.ID] = true
		case gone(r, now):
			silent[r.ID] = true
		}
	}
	return ends, silent
}

// moved is what is to be written for proxies to be in the rows of one replica
// only, and which replicas are left with some. Nothing is left of those that end,
// or are not there.
func (w *Writer) moved(rows []row, replicas []api.Replica, ends, silent map[string]bool) (ops []store.Op, left map[string]bool, err error) {
	known := map[string]bool{}
	for _, r := range replicas {
		known[r.ID] = true
	}
	before := make([]int, len(rows))
	for i := range rows {
		before[i] = len(rows[i].Members)
	}
	newest(rows, replicas, w.Now())
	left = map[string]bool{}
	for i, r := range rows {
		var puts []store.Op
		switch {
		case ends[r.Replica], !known[r.Replica]:
		case !silent[r.Replica]:
			continue
		case r.torn, len(r.Members) == before[i] && before[i] > 0:
			left[r.Replica] = true
			continue
		case len(r.Members) > 0:
			left[r.Replica] = true
			key, err := api.ParseKey(r.Client)
			if err != nil {
				return nil, nil, fmt.Errorf("read ledger: %w", err)
			}
			if puts, err = cut(mesh.Client{Key: key}, r.Replica, r.LedgerRow, r.write+1); err != nil {
				return nil, nil, err
			}
		}
		ops = append(ops, puts...)
		for n := len(puts); n < r.parts; n++ {
			ops = append(ops, store.Op{Key: r.place.key(n)})
		}
	}
	return ops, left, nil
}

// newest drops proxies that have moved: one that lost its replica is connected
// to another long before the first one's rows are gone. A replica that still
// writes is believed before a silent one, then the younger connection. How old
// it is each replica tells by its own clock alone: clocks may differ.
func newest(rows []row, replicas []api.Replica, now time.Time) {
	seen := map[string]time.Time{}
	for _, x := range replicas {
		seen[x.ID] = x.SeenAt.Time
	}
	type proxy struct{ client, instance string }
	type claim struct {
		silent  bool
		age     time.Duration
		replica string
	}
	claimOf := func(p api.Proxy, replica string) claim {
		return claim{now.Sub(seen[replica]) > silentAfter, seen[replica].Sub(p.ConnectedAt.Time), replica}
	}
	older := func(a, b claim) bool {
		switch {
		case a.silent != b.silent:
			return a.silent
		case a.age != b.age:
			return a.age > b.age
		}
		return a.replica > b.replica
	}
	best := map[proxy]claim{}
	for _, row := range rows {
		for _, p := range row.Members {
			id, mine := proxy{row.Client, p.Instance}, claimOf(p, row.Replica)
			if other, ok := best[id]; !ok || older(other, mine) {
				best[id] = mine
			}
		}
	}
	for i, row := range rows {
		rows[i].Members = slices.DeleteFunc(row.Members, func(p api.Proxy) bool {
			return older(claimOf(p, row.Replica), best[proxy{row.Client, p.Instance}])
		})
	}
}
