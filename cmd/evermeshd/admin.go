package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminConnections is how many connections the admin address may have.
const adminConnections = 256

// readiness is what /readyz answers: whether the replica can serve, and why not.
type readiness struct {
	mu     sync.Mutex
	reason string
	check  func(context.Context) error
	// limited says what does not go on although the replica serves, such as
	// writes on a full disk, or reads whose events cannot be kept: taking it out
	// would take the rest away too (D3).
	limited func(context.Context) error
}

func (r *readiness) set(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reason = reason
}

func (r *readiness) why(ctx context.Context) string {
	r.mu.Lock()
	reason := r.reason
	r.mu.Unlock()
	if reason != "" || r.check == nil {
		return reason
	}
	if err := r.check(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// adminHandler serves what operators look at. It has no authentication: bind it
// to loopback or a management network.
func adminHandler(ready *readiness, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		w.Header().Set("Content-Type", "application/json")
		reason := ready.why(ctx)
		serves := reason == ""
		if !serves {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if ready.limited != nil {
			if err := ready.limited(ctx); err != nil {
				reason = err.Error()
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": serves, "reason": reason})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
