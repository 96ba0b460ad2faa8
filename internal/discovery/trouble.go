package discovery

import (
	"log/slog"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// troubleEvery is how often trouble that goes on is said again.
const troubleEvery = time.Minute

// trouble sums up which queries fail. A source that is away is a few lines at the
// beginning, one a minute and one at the end, however many queries there are.
type trouble struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	failing map[envoy.EndpointQuery]bool
	said    time.Time
	sized   int       // how many failed when it was said
	kept    time.Time // when it was last said that sets are not saved
}

// failed takes in that a query could not be answered. It is said at the first
// one, when twice as many fail, and when it was last said a while ago.
func (t *trouble) failed(q envoy.EndpointQuery, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failing[q] = true
	now, n := t.now(), len(t.failing)
	if n < 2*t.sized && now.Sub(t.said) < troubleEvery {
		return
	}
	t.said, t.sized = now, n
	t.log.Warn("endpoints cannot be looked up: those that are known stay", "source", q.Source, "failing", n,
		"namespace", q.Namespace, "service", q.Service, "err", err)
}

// unsaved takes in that a set was not saved, and says so once in a while.
func (t *trouble) unsaved(q envoy.EndpointQuery, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if now.Sub(t.kept) < troubleEvery {
		return
	}
	t.kept = now
	t.log.Warn("endpoints are not saved for a restart: it is tried again", "namespace", q.Namespace, "service", q.Service, "err", err)
}

// answered takes in that a query was answered.
func (t *trouble) answered(q envoy.EndpointQuery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.failing[q] {
		return
	}
	if delete(t.failing, q); len(t.failing) == 0 {
		t.sized = 0
		t.log.Info("endpoints are looked up again", "source", q.Source)
	}
}

// forget is for a query that nobody needs any more.
func (t *trouble) forget(q envoy.EndpointQuery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if delete(t.failing, q); len(t.failing) == 0 {
		t.sized = 0
	}
}
