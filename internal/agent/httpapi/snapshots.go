package httpapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
)

// SnapshotInterval is how often App Mesh's agent kept Envoy's statistics.
const SnapshotInterval = time.Minute

// maxSnapshot bounds each of the two texts that are kept, in bytes: some 500 targets of a node. A proxy with more gets no
// delta but the values themselves; the agent stays small.
const maxSnapshot = 2 << 20

// Process says which process Envoy is, 0 for none, and how often it was started again.
type Process interface{ Process() (pid, restarted int) }

// life is one of Envoy's.
type life struct{ pid, restarted int }

func lifeOf(p Process) life {
	pid, restarted := p.Process()
	return life{pid, restarted}
}

// Snapshots keeps what the metrics extension counted, and what the last interval added to it (ENABLE_STATS_SNAPSHOT). They
// are of one life of Envoy: what an earlier one counted is forgotten when it ends.
type Snapshots struct {
	Envoy    Process
	Admin    *envoyadmin.Client
	Interval time.Duration
	Log      *slog.Logger

	mu    sync.Mutex
	of    life
	whole string // as of the last time; "" for none
	added string // since the time before, or whole where that was the first
	told  bool   // that they are not to be had
}

// Run keeps snapshots until ctx ends.
func (s *Snapshots) Run(ctx context.Context) {
	for pause.For(ctx, s.Interval) == nil {
		s.take(ctx)
	}
}

func (s *Snapshots) take(ctx context.Context) {
	of := lifeOf(s.Envoy)
	text, err := readExtension(ctx, s.Admin, statsQuery{usedOnly: true, extension: true}, maxSnapshot)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || of != lifeOf(s.Envoy) {
		s.of, s.whole, s.added = life{}, "", ""
		if err != nil && ctx.Err() == nil && !s.told {
			s.told = true
			s.Log.Warn("no snapshot of envoy's statistics: delta gives what they are", "err", err)
		}
		return
	}
	s.told = false
	added := text
	if s.whole != "" && s.of == of {
		added = difference(s.whole, text)
	}
	s.of, s.whole, s.added = of, text, added
}

// delta is what the last interval added; false when there is none of the Envoy that runs now.
func (s *Snapshots) delta() (string, bool) {
	if s == nil {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.added, s.whole != "" && s.of == lifeOf(s.Envoy)
}
