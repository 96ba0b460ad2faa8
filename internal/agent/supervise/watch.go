package supervise

import (
	"context"
	"log/slog"
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

// mostLate is how many such polls in a row are not counted. A process that is late with all of them does not stand still, it
// is slow, and Envoy's silence is Envoy's.
const mostLate = 3

// hangs returns when the Envoy hangs, with the number of polls that it has left unanswered, or when ctx has ended, with 0.
// State is asked how the Envoy is.
func (w Watch) hangs(ctx context.Context, state func(context.Context) string, log *slog.Logger) int {
	if w.Silent <= 0 {
		<-ctx.Done()
		return 0
	}
	answered, silent, late := false, 0, 0
	for pause.For(ctx, w.Interval) == nil {
		asked := time.Now()
		if state(ctx) != envoyadmin.Unreachable {
			answered, silent, late = true, 0, 0
			continue
		}
		if took := time.Since(asked); took <= stoodStill {
			late = 0
		} else if late++; late <= mostLate {
			if late == 1 {
				log.Warn("envoy is silent, and the agent itself was late: it was stopped, or has too little of a processor", "took", took.Round(time.Millisecond).String())
			}
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
