package supervise

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
)

const (
	endWait  = 5 * time.Second // how long Envoy may take to end after SIGTERM before it is killed
	tellWait = 10 * time.Second
	quiet    = time.Second // how long there must be no request before an end that comes early
	look     = 200 * time.Millisecond
	// stopTries is how often Envoy is asked for its state before it is ended without a drain, or because it has begun to hand
	// over: on a busy machine an answer may come late.
	stopTries = 3
)

// Left says who may still choose this proxy after the control plane was told that it drains.
type Left int

// What the control plane answered.
const (
	SomebodyMay Left = iota // clients that find it by a name, or nobody knows
	NobodyMay               // all clients have acknowledged that it is gone
)

// stop lets Envoy drain and ends it (AGENT-046): it fails the checks of clients that check it, tells the control
// plane, has the listeners drain, and waits for the requests that are open. It takes the drain time at most. Before
// that it ends only when no client may choose it any more and nothing is open. An Envoy that has not served yet,
// or cannot be asked to drain, is ended at once; so is any when it is to hurry.
func (s *Envoy) stop(p *process) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.Settings.DrainTime)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	// Who waits below does so until Envoy ends or a second signal comes.
	wg.Go(func() {
		select {
		case <-p.done:
		case <-s.Hurry:
			s.Log.Info("told again to end: not draining any longer")
		case <-ctx.Done():
		}
		cancel()
	})
	defer cancel()
	state := s.state(ctx)
	if ctx.Err() == nil && serves(state) {
		s.drain(ctx)
	} else if ctx.Err() == nil {
		s.Log.Info("nothing to drain", "state", state)
	}
	if err := p.end(syscall.SIGTERM, endWait); err != nil {
		return err
	}
	s.Log.Info("envoy stopped", "pid", p.pid(), "status", p.exit())
	return nil
}

// state is how Envoy is, asked again when it does not say.
func (s *Envoy) state(ctx context.Context) string {
	state := s.Admin.State(ctx)
	for range stopTries - 1 {
		if state == envoyadmin.Unreachable && ctx.Err() == nil { // where nobody listens it costs no time
			state = s.Admin.State(ctx)
		}
	}
	return state
}

// serves says whether an Envoy in that state may have open requests. Before its first configuration it has no
// listener; one that hangs is asked in vain.
func serves(state string) bool {
	switch state {
	case "INITIALIZING", "PRE_INITIALIZING", envoyadmin.Unreachable:
		return false
	}
	return true
}

// drain returns when Envoy may be ended.
func (s *Envoy) drain(ctx context.Context) {
	s.Log.Info("draining envoy", "seconds", int(s.Settings.DrainTime/time.Second))
	if _, err := s.Admin.OK(ctx, http.MethodPost, "/healthcheck/fail", envoyadmin.Wait); err != nil {
		s.Log.Warn("cannot fail the health checks", "err", err)
	}
	told := make(chan Left, 1)
	go func() { told <- s.tell(ctx) }()
	left := SomebodyMay
	defer func() { // the goroutine ends with ctx, or before
		if told != nil {
			<-told
		}
	}()
	late := time.NewTimer(s.Settings.DrainTime / 2) // listeners need time of their own to ask clients to leave
	defer late.Stop()
	select {
	case left = <-told:
		told = nil
	case <-late.C:
	case <-ctx.Done():
		return
	}
	if err := s.Admin.Drain(ctx); err != nil {
		s.Log.Warn("cannot drain envoy", "err", err)
		return
	}
	idle := time.Time{}
	for pause.For(ctx, look) == nil {
		if told != nil {
			select {
			case left = <-told:
				told = nil
			default:
			}
		}
		switch {
		case left != NobodyMay || s.open(ctx) > 0:
			idle = time.Time{}
		case idle.IsZero():
			idle = time.Now()
		case time.Since(idle) >= quiet:
			s.Log.Info("drained: no client may choose this proxy, and nothing is open")
			return
		}
	}
}

// tell tells the control plane.
func (s *Envoy) tell(ctx context.Context) Left {
	if s.Tell == nil {
		return SomebodyMay
	}
	ctx, cancel := context.WithTimeout(ctx, tellWait)
	defer cancel()
	left, err := s.Tell(ctx)
	if err != nil {
		s.Log.Warn("cannot tell the control plane that this proxy drains", "err", err)
		return SomebodyMay
	}
	return left
}

// openStats are the statistics that tell of open requests, and of connections where some are passed on as they are.
const openStats = `^http\..*downstream_rq_active$|^tcp\..*downstream_cx_total$|^listener\..*downstream_cx_active$`

// open is how much is under way in Envoy, in both directions: requests, and where it passes on connections as they
// are, all connections. What cannot be asked counts as something. The administration interface is asked by us.
func (s *Envoy) open(ctx context.Context) int {
	text, err := s.Admin.OK(ctx, http.MethodGet, "/stats?format=json&filter="+url.QueryEscape(openStats), envoyadmin.Wait)
	if err != nil {
		return 1
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if json.Unmarshal([]byte(text), &answer) != nil {
		return 1
	}
	requests, connections, passed := 0, 0, 0
	for _, stat := range answer.Stats {
		kind, rest, _ := strings.Cut(stat.Name, ".")
		switch {
		case strings.HasPrefix(rest, "admin."):
		case kind == "http":
			requests += stat.Value
		case kind == "listener":
			connections += stat.Value
		default:
			passed += stat.Value
		}
	}
	if passed > 0 {
		return requests + connections
	}
	return requests
}
