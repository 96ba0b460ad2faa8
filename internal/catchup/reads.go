package catchup

import (
	"context"
	"sync"
	"time"
)

// Reads does a read of the store for many callers at once: a thousand that ask together
// cost a few reads, and yet each caller gets a read that began after it asked.
type Reads[T any] struct {
	read  func(context.Context) (T, error)
	apart time.Duration
	mu    sync.Mutex
	next  *round[T]
	wake  chan struct{}
}

// round is one read.
type round[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// NewReads makes Reads of a read; between the end of one and the beginning of the next is
// at least the time apart. Run does them.
func NewReads[T any](read func(context.Context) (T, error), apart time.Duration) *Reads[T] {
	return &Reads[T]{read: read, apart: apart, wake: make(chan struct{}, 1)}
}

// Read returns what a read says that begins from now on, or ctx's error.
func (r *Reads[T]) Read(ctx context.Context) (T, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round[T]{done: make(chan struct{})}
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	mine := r.next
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.value, mine.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// Run does the reads, one at a time, until ctx ends, and returns its error.
func (r *Reads[T]) Run(ctx context.Context) error {
	rest := time.NewTimer(r.apart)
	defer rest.Stop()
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
		mine := r.next
		r.next = nil // who asks from now on waits for a read that starts later
		r.mu.Unlock()
		if mine == nil {
			continue
		}
		mine.value, mine.err = r.read(ctx)
		close(mine.done)
		if r.apart == 0 {
			continue
		}
		rest.Reset(r.apart)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
