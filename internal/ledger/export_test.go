package ledger

import "context"

// Flush does what Run does when something changed, Sweep what it does from time
// to time.
func (w *Writer) Flush(ctx context.Context) error { return w.flush(ctx) }

// Repeat does what Run does from time to time before that, and Lose what it does
// when a flush failed.
func (w *Writer) Repeat() { w.repeat() }

// Lose looks whether the store is out of reach.
func (w *Writer) Lose(ctx context.Context) { w.lose(ctx) }

// Sweep removes what replicas that are gone left.
func (w *Writer) Sweep(ctx context.Context) error { return w.sweep(ctx) }
