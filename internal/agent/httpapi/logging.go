package httpapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
)

// levelSwitch changes the level of Envoy's loggers for a while (AGENT-039).
type levelSwitch struct {
	admin *envoyadmin.Client
	envoy Process
	base  string // that every Envoy starts with
	reset time.Duration
	log   *slog.Logger

	mu      sync.Mutex
	of      life // whose level current is
	current string
	before  string      // what a pending change goes back to
	timer   *time.Timer // nil when no change is pending
	pending int         // which change that is: a time may have come as the change was made another
}

func (l *levelSwitch) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Only POST requests are supported", http.StatusBadRequest)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	known := err == nil && r.ContentLength == 0
	for name, values := range query {
		known = known && len(values) == 1 && (name == "level" || (name == "permanent" && values[0] == "true"))
	}
	if !known {
		http.Error(w, "Invalid request", http.StatusBadRequest)
		return
	}
	level := strings.ToLower(query.Get("level"))
	// Longer names were always refused here.
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error", "off"}, level) {
		http.Error(w, "Invalid log level specified", http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follow()
	old := l.current
	if level == old {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if err := l.set(r.Context(), level); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if l.timer == nil {
		l.before = old
	}
	l.stopTimer()
	if !query.Has("permanent") {
		l.pending++
		pending := l.pending
		l.timer = time.AfterFunc(l.reset, func() { l.back(pending) })
	}
	fmt.Fprintf(w, "Log level changed from %s to %s\n", old, level)
}

// follow forgets what was changed in an Envoy that is gone: the one that was started in its place has its first level.
func (l *levelSwitch) follow() {
	if now := lifeOf(l.envoy); now != l.of {
		l.stopTimer()
		l.of, l.current = now, l.base
	}
}

func (l *levelSwitch) set(ctx context.Context, level string) error {
	if _, err := l.admin.OK(ctx, http.MethodPost, "/logging?level="+level, envoyadmin.Wait); err != nil {
		return err
	}
	l.current = level
	return nil
}

// back goes back from a change whose time has come.
func (l *levelSwitch) back(from int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil || l.pending != from {
		return // closed, made permanent or changed again, at this very moment
	}
	l.follow()
	if l.timer == nil {
		return // with the Envoy that it was for
	}
	l.timer = nil
	if err := l.set(context.Background(), l.before); err != nil {
		l.log.Warn("cannot reset envoy's log level", "err", err)
	}
}

func (l *levelSwitch) stopTimer() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

func (l *levelSwitch) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopTimer()
}
