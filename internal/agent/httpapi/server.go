package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/socket"
)

// ServerOptions is what a Server needs.
type ServerOptions struct {
	Where  settings.Server
	Health *Health
	Admin  *envoyadmin.Client
	Level  string        // that Envoy was started with
	Reset  time.Duration // how long another level lasts
	// Snapshots are for delta; nil where none are kept.
	Snapshots *Snapshots
	// Quit begins the agent's end, and returns at once; nil for no /quit.
	Quit func()
	Log  *slog.Logger
}

// Server is the agent's HTTP interface: 10 requests a second for this host, and 10 for all others.
type Server struct {
	ServerOptions
	doors *doors
	level *levelSwitch
	http  *http.Server
	wg    sync.WaitGroup
}

// Listen starts the interface where the options say; nil without an address. A socket's directory is made, and the socket is
// for the agent's own user alone (AGENT-014 to AGENT-016).
func Listen(o ServerOptions) (*Server, error) {
	if o.Where.Network == "" {
		return nil, nil
	}
	variable, listen := "APPNET_AGENT_HTTP_PORT", net.Listen
	if o.Where.Network == "unix" {
		variable, listen = "APPNET_AGENT_ADMIN_UDS_PATH", listenUnix
	}
	l, err := listen(o.Where.Network, o.Where.Address)
	if err != nil {
		return nil, settings.Wrong(variable, "%v", err)
	}
	v := &Server{ServerOptions: o, doors: newDoors()}
	v.level = &levelSwitch{admin: o.Admin, envoy: o.Health.Envoy, base: o.Level, current: o.Level, reset: o.Reset, log: o.Log}
	v.http = &http.Server{
		Handler: v.limited(v.routes()), ConnState: v.doors.state, MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTime, ReadTimeout: readTime, WriteTimeout: answerTime, IdleTimeout: time.Minute,
	}
	v.wg.Go(func() {
		if err := v.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("http server stopped", "err", err)
		}
	})
	return v, nil
}

const (
	requestRate  = 10 // a second
	requestBurst = 20
	maxHeader    = 16 << 10
	headerTime   = 5 * time.Second
	readTime     = 15 * time.Second // header and body; nothing that is answered takes longer
	answerTime   = 30 * time.Second // until who asked has taken the answer
)

func listenUnix(_, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return socket.Listen(path)
}

// Close ends the interface; nil has none.
func (v *Server) Close() {
	if v == nil {
		return
	}
	_ = v.http.Close()
	v.wg.Wait()
	v.level.close()
}

func (v *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/status", v.status)
	mux.HandleFunc("/enableLogging", v.direct(v.level.serve))
	mux.HandleFunc("/drain_listeners", v.direct(v.drain))
	mux.HandleFunc("/stats/prometheus", v.prometheus)
	if v.Quit != nil {
		mux.HandleFunc("/quit", v.direct(v.quit))
	}
	return mux
}

func (v *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !v.doors.of(r.RemoteAddr).limiter.Allow() {
			http.Error(w, http.StatusText(http.StatusTooManyRequests), http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (v *Server) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "    ")
	_ = e.Encode(v.Health.status()) // the caller left
}

// drain takes the parameter inboundonly, as App Mesh's agent did, or none, as its guide says (AGENT-038).
func (v *Server) drain(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Only POST requests are supported", http.StatusBadRequest)
		return
	}
	if r.ContentLength != 0 || (r.URL.RawQuery != "" && strings.TrimSuffix(r.URL.RawQuery, "=") != "inboundonly") {
		http.Error(w, "Invalid request", http.StatusBadRequest)
		return
	}
	text, err := v.Admin.OK(r.Context(), http.MethodPost, "/drain_listeners?inboundonly", envoyadmin.Wait)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, text)
}

// quit ends the agent as SIGTERM does, for a job whose main container has ended. Over tcp none but this host may ask for it.
func (v *Server) quit(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPost:
		http.Error(w, "Only POST requests are supported", http.StatusBadRequest)
	case r.ContentLength != 0 || r.URL.RawQuery != "":
		http.Error(w, "Invalid request", http.StatusBadRequest)
	case v.Where.Network == "tcp" && !fromHere(r.RemoteAddr):
		http.Error(w, "Only this host may ask for that", http.StatusForbidden)
	default:
		fmt.Fprint(w, "OK\n")
		v.Quit()
	}
}

// fromHere says that a request came over the loopback.
func fromHere(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().Unmap().IsLoopback()
}
