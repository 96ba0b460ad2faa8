package supervise

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
)

// startPatience is how many times as many polls Envoy may be silent before its first answer.
const startPatience = 4

// Watch says when an Envoy that runs counts as hanging (AGENT-047): its administration interface is polled, and has not
// answered so many times in a row. Envoy answers on the thread that takes configuration, so one that is silent for
// that long cannot be configured either.
type Watch struct {
	Interval time.Duration
	Silent   int  // polls; 0 never
	Lenient  bool // an interface that never answered may be none: the bootstrap is the user's own
}

// stoodStill is how long a poll takes that this process did not end in time: it was stopped, or had no processor, and
// knows nothing of what Envoy did meanwhile.
const stoodStill = envoyadmin.Wait + envoyadmin.Wait/2

// hangs returns when the Envoy hangs, with the number of polls that it has left unanswered, or when ctx has ended, with 0.
func (w Watch) hangs(ctx context.Context, admin *envoyadmin.Client) int {
	if w.Silent <= 0 {
		<-ctx.Done()
		return 0
	}
	answered, silent := false, 0
	for pause.For(ctx, w.Interval) == nil {
		asked := time.Now()
		if admin.State(ctx) != envoyadmin.Unreachable {
			answered, silent = true, 0
			continue
		}
		if time.Since(asked) > stoodStill {
			continue
		}
		silent++
		switch {
		case answered && silent >= w.Silent, !answered && !w.Lenient && silent >= startPatience*w.Silent:
			if ctx.Err() != nil {
				return 0
			}
			return silent
		}
	}
	return 0
}
