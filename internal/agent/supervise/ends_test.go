package supervise

import (
	"context"
	"log/slog"
	"testing"
)

// atExit ends something when an Envoy's own end is logged.
type atExit struct {
	slog.Handler
	do func()
}

func (h atExit) Enabled(context.Context, slog.Level) bool { return true }

func (h atExit) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "envoy exited" {
		h.do()
	}
	return nil
}

// An Envoy may end by itself at the moment when it is to end: that is no failure, though it had no restart left.
func TestEndsWhenItIsToEnd(t *testing.T) {
	t.Parallel()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	s := &Envoy{Path: "/bin/false", Log: slog.New(atExit{slog.DiscardHandler, end})}
	if err := s.Run(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}
