package segment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sort"
)

// Query is what Scan looks for.
type Query struct {
	Account string
	// From and To are times in microseconds, both included; To 0 is no bound.
	From, To int64
	// Before, if its At is set, is an entry that all found are older than, in the
	// order of Entry.Newer.
	Before Entry
	Limit  int
	// Match says whether an entry is looked for; nil: all are. It does not keep the
	// body.
	Match func(Entry) bool
	// Budget is about how many bytes are read before Scan leaves it at that; 0 is
	// no bound.
	Budget int64
}

// Found is what Scan found.
type Found struct {
	Entries []Entry // newest first, each ID once
	// Until, if it is not 0, says that the budget was used up: entries at this time
	// and before were not all looked at.
	Until int64
}

// ends is the newest time that may be found.
func (q Query) ends() int64 {
	to := q.To
	if to == 0 {
		to = math.MaxInt64
	}
	if q.Before.At != 0 {
		to = min(to, q.Before.At)
	}
	return to
}

// Wants says whether the entry is within the query's bounds and matches.
func (q Query) Wants(e Entry) bool {
	return e.Account == q.Account && e.At >= q.From && e.At <= q.ends() &&
		(q.Before.At == 0 || q.Before.Newer(e)) && (q.Match == nil || q.Match(e))
}

// Newest collects the newest entries, each once, at most limit.
type Newest struct {
	Limit   int
	Entries []Entry
}

// Full says whether an entry at that time, or an older one, cannot be among them
// any more.
func (n *Newest) Full(at int64) bool {
	return len(n.Entries) == n.Limit && n.Entries[n.Limit-1].At > at
}

// Add takes the entry in if it belongs there; clone says that its body is not the
// caller's to keep.
func (n *Newest) Add(e Entry, clone bool) {
	i := sort.Search(len(n.Entries), func(i int) bool { return !n.Entries[i].Newer(e) })
	if i == n.Limit || i < len(n.Entries) && n.Entries[i].At == e.At && n.Entries[i].ID == e.ID {
		return
	}
	if clone {
		e.Body = slices.Clone(e.Body)
	}
	n.Entries = slices.Insert(n.Entries, i, e)
	if len(n.Entries) > n.Limit {
		n.Entries = n.Entries[:n.Limit]
	}
}

// place is a block of a file.
type place struct {
	block
	file *file
}

// Scan finds the newest entries that the query wants. It reads only blocks that
// may have some, from the newest on, and holds no more than one of them.
func (l *Log) Scan(ctx context.Context, q Query) (Found, error) {
	places := l.places(q)
	newest := Newest{Limit: q.Limit}
	var buffer []byte
	var read int64
	for _, p := range places {
		if newest.Full(p.Max) {
			break
		}
		if err := ctx.Err(); err != nil {
			return Found{}, fmt.Errorf("scan log: %w", err)
		}
		// The search goes on from Until, so that has to be before where it began.
		if q.Budget > 0 && read >= q.Budget && p.Max+1 < q.ends() {
			return Found{newest.Entries, p.Max}, nil
		}
		read += p.Size
		var err error
		if buffer, err = l.block(p, buffer); err != nil {
			return Found{}, fmt.Errorf("scan log: %w", err)
		}
		entries, err := Lines(buffer)
		if err != nil {
			l.config.Log.Warn("log has bytes that are no entries", "file", p.file.name(l.config.Dir), "offset", p.Offset)
		}
		for _, e := range entries {
			if !newest.Full(e.At) && q.Wants(e) {
				newest.Add(e, true)
			}
		}
	}
	return Found{Entries: newest.Entries}, nil
}

// places are the blocks that may have what is wanted, those with the newest
// entries first.
func (l *Log) places(q Query) (out []place) {
	ends := q.ends()
	l.mu.RLock()
	for _, f := range l.files {
		for _, b := range f.blocks {
			if b.Max >= q.From && b.Min <= ends {
				out = append(out, place{b, f})
			}
		}
	}
	l.mu.RUnlock()
	slices.SortStableFunc(out, func(a, b place) int { return cmp.Compare(b.Max, a.Max) })
	return out
}

// block reads a block; it is empty when its segment was removed meanwhile.
func (l *Log) block(p place, buffer []byte) ([]byte, error) {
	in, err := os.Open(p.file.name(l.config.Dir))
	if errors.Is(err, fs.ErrNotExist) {
		return buffer[:0], nil
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	buffer = slices.Grow(buffer[:0], int(p.Size))[:p.Size]
	_, err = io.ReadFull(io.NewSectionReader(in, p.Offset, p.Size), buffer)
	return buffer, err
}
