package segment

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// groupMost is how many appends share an fsync, groupBytes about how much they
	// write; as much may wait meanwhile.
	groupMost  = 4096
	groupBytes = 4 << 20
	// quietYields is how many yields without an append end a group, gatherMost for how
	// long one is gathered at most.
	quietYields = 2
	gatherMost  = 3 * time.Millisecond
	// reusedBytes is how large a buffer may be that is kept for the next groups.
	reusedBytes = 256 << 10
)

// queue is what waits for the goroutine that writes: one group, which it takes as a
// whole. Whoever appends writes its lines into the group's buffer and waits for the
// group: nothing is copied once more, and nobody is woken but once.
type queue struct {
	wake chan struct{} // receives when a group is not empty

	mu     sync.Mutex
	next   *group
	closed bool
	// text and lines are buffers of a group that was written.
	text  []byte
	lines []line
}

// group is what shares an fsync.
type group struct {
	text    []byte
	lines   []line
	appends int
	taken   chan struct{} // closed when nothing joins it any more
	done    chan struct{} // closed when it is on the disk, or err says why not
	err     error
}

// line is an entry in a group.
type line struct{ at, size int64 }

func newQueue() queue { return queue{wake: make(chan struct{}, 1), next: newGroup(nil, nil)} }

func newGroup(text []byte, lines []line) *group {
	return &group{text: text, lines: lines, taken: make(chan struct{}), done: make(chan struct{})}
}

// join adds entries to the group that is written next. When that is full it waits for
// the one after it, or for ctx.
func (q *queue) join(ctx context.Context, entries []Entry) (*group, error) {
	for {
		g, joined, err := q.tryJoin(entries)
		switch {
		case err != nil:
			return nil, err
		case joined:
			select {
			case q.wake <- struct{}{}:
			default: // it was told
			}
			return g, nil
		}
		select {
		case <-g.taken:
		case <-ctx.Done():
			return nil, fmt.Errorf("append to log: %w", ctx.Err())
		}
	}
}

func (q *queue) tryJoin(entries []Entry) (g *group, joined bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	g = q.next
	switch {
	case q.closed:
		return nil, false, ErrClosed
	case g.appends >= groupMost || len(g.text) >= groupBytes:
		return g, false, nil
	}
	for _, e := range entries {
		before := len(g.text)
		g.text = e.AppendLine(g.text)
		g.lines = append(g.lines, line{e.At, int64(len(g.text) - before)})
	}
	g.appends++
	return g, true, nil
}

// gather has those who are just about to append share the fsync of who waits: it
// yields to them until nobody came in two yields, or it is late. Where nobody is ready
// to run, this takes no time.
func (q *queue) gather(yield func(), late func() bool) {
	for n, quiet := q.waiting(), 0; quiet < quietYields && !late(); {
		yield()
		now := q.waiting()
		if quiet++; now > n {
			n, quiet = now, 0
		}
	}
}

// waiting is how many appends wait to be taken.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.next.appends
}

// take is the group that waits; what comes from now on is in the next one.
func (q *queue) take() *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.next
	close(g.taken)
	q.next = newGroup(q.text, q.lines)
	q.text, q.lines = nil, nil
	return g
}

// close is take, after which nothing comes.
func (q *queue) close() *group {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	return q.take()
}

// recycle keeps the buffers of a group that is done, for the next but one.
func (q *queue) recycle(g *group) {
	if cap(g.text) > reusedBytes {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.text, q.lines = g.text[:0], g.lines[:0]
}
