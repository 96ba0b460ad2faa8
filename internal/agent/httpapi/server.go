package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/socket"
)

// Server is the agent's HTTP interface: 10 requests a second for all of it.
type Server struct {
	health  *Health
	admin   *envoyadmin.Client
	limiter *rate.Limiter
	level   *levelSwitch
	http    *http.Server
	wg      sync.WaitGroup
}

// Listen starts the interface where the settings say; nil without an address.
func Listen(s settings.Settings, h *Health, admin *envoyadmin.Client, log *slog.Logger) (*Server, error) {
	if s.Server.Network == "" {
		return nil, nil
	}
	variable := "APPNET_AGENT_HTTP_PORT"
	listen := net.Listen
	if s.Server.Network == "unix" {
		variable, listen = "APPNET_AGENT_ADMIN_UDS_PATH", func(_, path string) (net.Listener, error) { return socket.Listen(path) }
	}
	l, err := listen(s.Server.Network, s.Server.Address)
	if err != nil {
		return nil, settings.Wrong(variable, "%v", err)
	}
	v := &Server{
		health: h, admin: admin, limiter: rate.NewLimiter(10, 20),
		level: &levelSwitch{admin: admin, current: s.LogLevel, reset: s.LoggingReset, log: log},
	}
	v.http = &http.Server{Handler: v.limited(v.routes()), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	v.wg.Go(func() {
		if err := v.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("http server stopped", "err", err)
		}
	})
	return v, nil
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
	mux.HandleFunc("/enableLogging", v.level.serve)
	mux.HandleFunc("/drain_listeners", v.drain)
	mux.HandleFunc("GET /stats/prometheus", v.prometheus)
	return mux
}

func (v *Server) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !v.limiter.Allow() {
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
	_ = e.Encode(v.health.status()) // the caller left
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
	text, err := v.admin.OK(r.Context(), http.MethodPost, "/drain_listeners?inboundonly", envoyadmin.Wait)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, text)
}

const statsWait = 5 * time.Second

// prometheus takes usedonly and filter=metrics_extension (AGENT-040).
func (v *Server) prometheus(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	path, extension := "/stats?format=prometheus", false
	for name, values := range query {
		switch {
		case name == "usedonly" && slices.Equal(values, []string{""}):
		case name == "filter" && slices.Equal(values, []string{"metrics_extension"}):
			extension = true
		default:
			err = fmt.Errorf("parameter %q is not known: want usedonly and filter=metrics_extension", name)
		}
	}
	if err != nil {
		http.Error(w, "Invalid request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if extension {
		path += "&filter=appmesh"
	}
	if query.Has("usedonly") {
		path += "&usedonly"
	}
	text, err := v.admin.OK(r.Context(), http.MethodGet, path, statsWait)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	if extension {
		text = extensionMetrics(text)
	}
	fmt.Fprint(w, text)
}

// extensionMetrics keeps the metrics extension's families, sorted and named without Envoy's prefix.
func extensionMetrics(text string) string {
	const prefix = "envoy_appmesh_"
	var families []string
	for block := range strings.SplitSeq(text, "# TYPE ") {
		if strings.HasPrefix(block, prefix) {
			block = strings.ReplaceAll("# TYPE "+strings.TrimSpace(block), "\n"+prefix, "\n")
			families = append(families, "\n"+strings.Replace(block, "# TYPE "+prefix, "# TYPE ", 1)+"\n")
		}
	}
	slices.Sort(families)
	return strings.Join(families, "")
}

// Readiness asks the /status of the agent that runs with the same settings until it is healthy, for -envoyReadiness.
// An interval or time-out of 0 asks once.
func Readiness(ctx context.Context, s settings.Settings) error {
	client, address := Client(s.Server)
	if client == nil {
		return settings.Wrong("APPNET_AGENT_ADMIN_MODE", "must be tcp or uds: the agent's state is asked over its HTTP interface")
	}
	once := s.ReadinessInterval == 0 || s.ReadinessTimeout == 0
	if !once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.ReadinessTimeout)
		defer cancel()
	}
	for {
		err := askHealthy(ctx, client, address)
		if err == nil || once {
			return err
		}
		if pause.For(ctx, s.ReadinessInterval) != nil {
			return err
		}
	}
}

// Client reaches the interface of a running agent, and the address of its /status; nil where there is none.
func Client(s settings.Server) (*http.Client, string) {
	dialer := &net.Dialer{}
	network, address := s.Network, s.Address
	switch network {
	case "":
		return nil, ""
	case "tcp":
		if _, port, err := net.SplitHostPort(s.Address); err == nil {
			address = net.JoinHostPort("localhost", port)
		}
	}
	return &http.Client{Timeout: envoyadmin.Wait, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}, "http://agent/status"
}

func askHealthy(ctx context.Context, client *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer answer.Body.Close()
	var s Status
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	if s.Health != healthy {
		return fmt.Errorf("envoy is %s: state %s, management server %s", s.Health, s.State, s.ManagementServer)
	}
	return nil
}
