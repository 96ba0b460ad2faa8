// Package pause waits.
package pause

import (
	"context"
	"time"
)

// For waits that long, or until ctx ends, whose error it returns then.
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
