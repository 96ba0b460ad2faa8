package ledger

import "context"

// Flush does what Run does when something changed, Sweep what it does from time
// to time.
func (w *Writer) Flush(ctx context.Context) error { return w.flush(ctx) }

// Sweep removes what replicas that are gone left.
func (w *Writer) Sweep(ctx context.Context) error { return w.sweep(ctx) }
