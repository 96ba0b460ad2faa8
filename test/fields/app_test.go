//go:build linux

package fields

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/test/ground"
)

// The ports of every application: HTTP/1.1, HTTP/2 without TLS and gRPC on the
// first ones, plain TCP on the others. All of them go through Envoy where the host
// has one.
const (
	firstHTTP, lastHTTP = 8080, 8085
	portTLS             = 8086 // HTTP/1.1 with TLS, in scenes that have certificates
	firstTCP, lastTCP   = 8090, 8093
)

// app is the application on a host. It answers a request with the request, as
// seen. Headers make it behave: x-wait: 200ms waits before each answer; x-fail: "500
// reset grpc:14" answers the first tries of the request's x-id with these, where reset
// breaks the connection and grpc:14 is a gRPC status in the headers; x-delay waits
// after the answer's headers; x-break: blue makes the application of that name answer
// 500. A health check is answered 200, or by what its path says: /?then=503,200 is 503
// at first and 200 from then on, counted from the last change of configuration. On a TCP port it says its name and port in a line, and
// then sends back what comes.
type app struct {
	name    string
	rpc     *grpc.Server
	servers []*http.Server
	tcp     []net.Listener
	running sync.WaitGroup

	mu     sync.Mutex
	tries  map[string][]string // what became of the tries of an x-id
	checks []string            // health checks since the last change: "HTTP/1.1 /ping at 8080"
	conns  map[net.Conn]bool   // of TCP
	busy   int                 // requests being answered
	peak   int                 // the most of them at once
}

// seen is a request as the application saw it.
type seen struct {
	App    string
	Port   int
	Family string // IPv4 or IPv6
	Proto  string
	Method string
	Host   string
	Path   string // with the query
	Header http.Header
	TLS    bool
	Client string // whom the client's certificate is for, "" without one
	Chain  int    // how many certificates it sent
}

func startApp(h *ground.Host, name string, secure *tls.Config) (*app, error) {
	a := &app{name: name, tries: map[string][]string{}, conns: map[net.Conn]bool{}, rpc: grpc.NewServer(grpc.UnknownServiceHandler(answerRPC))}
	healthpb.RegisterHealthServer(a.rpc, health.NewServer())
	for port := firstHTTP; port <= lastHTTP; port++ {
		l, err := h.Listen("tcp", fmt.Sprint(":", port))
		if err != nil {
			return nil, err
		}
		both := &http.Protocols{}
		both.SetHTTP1(true)
		both.SetUnencryptedHTTP2(true)
		s := &http.Server{Protocols: both, ReadHeaderTimeout: patience, Handler: a}
		a.servers = append(a.servers, s)
		a.running.Go(func() { _ = s.Serve(l) })
	}
	if secure != nil {
		l, err := h.Listen("tcp", fmt.Sprint(":", portTLS))
		if err != nil {
			return nil, err
		}
		s := &http.Server{ReadHeaderTimeout: patience, Handler: a, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
		a.servers = append(a.servers, s)
		a.running.Go(func() { _ = s.Serve(tls.NewListener(l, secure)) })
	}
	for port := firstTCP; port <= lastTCP; port++ {
		l, err := h.Listen("tcp", fmt.Sprint(":", port))
		if err != nil {
			return nil, err
		}
		a.tcp = append(a.tcp, l)
		a.running.Go(func() { a.greet(l, port) })
	}
	return a, nil
}

func (a *app) stop() {
	for _, l := range a.tcp {
		_ = l.Close()
	}
	for _, s := range a.servers {
		_ = s.Close()
	}
	a.mu.Lock()
	for c := range a.conns {
		_ = c.Close()
	}
	a.mu.Unlock()
	a.rpc.Stop()
	a.running.Wait()
}

// greet serves a TCP port.
func (a *app) greet(l net.Listener, port int) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		a.conns[conn] = true
		a.mu.Unlock()
		a.running.Go(func() {
			defer func() {
				a.mu.Lock()
				delete(a.conns, conn)
				a.mu.Unlock()
				_ = conn.Close()
			}()
			if _, err := fmt.Fprintf(conn, "%s:%d\n", a.name, port); err != nil {
				return
			}
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintln(conn, lines.Text()); err != nil {
					return
				}
			}
		})
	}
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, family := 0, "IPv4"
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		if port = at.Port; at.IP.To4() == nil {
			family = "IPv6"
		}
	}
	isRPC := strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
	if r.UserAgent() == "Envoy/HC" || r.URL.Path == "/grpc.health.v1.Health/Check" {
		a.check(w, r, port)
		return
	}
	id, fail := r.Header.Get("X-Id"), strings.Fields(r.Header.Get("X-Fail"))
	a.mu.Lock()
	try := len(a.tries[id])
	a.tries[id] = append(a.tries[id], a.name)
	a.busy++
	a.peak = max(a.peak, a.busy)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.busy--
		a.mu.Unlock()
	}()
	if r.Header.Get("X-Break") == a.name {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if !pause(r, "X-Wait") {
		return
	}
	if try < len(fail) {
		fails(w, fail[try])
		return
	}
	s := seen{App: a.name, Port: port, Family: family, Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI(), Header: r.Header}
	if r.TLS != nil {
		s.TLS = true
		s.Client, s.Chain = whose(r.TLS.PeerCertificates)
	}
	text, err := json.Marshal(s)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if isRPC {
		r.Header.Set(seenHeader, string(text)) // for answerRPC
		a.rpc.ServeHTTP(w, r)
		return
	}
	w.Header().Set("X-App", a.name)
	if r.Header.Get("X-Delay") != "" {
		_ = http.NewResponseController(w).Flush()
		if !pause(r, "X-Delay") {
			return
		}
	}
	_, _ = w.Write(text)
}

// check answers a health check.
func (a *app) check(w http.ResponseWriter, r *http.Request, port int) {
	a.mu.Lock()
	number := len(a.checks)
	a.checks = append(a.checks, fmt.Sprintf("%s %s at %d", r.Proto, r.URL.Path, port))
	a.mu.Unlock()
	if script := strings.Split(r.URL.Query().Get("then"), ","); script[0] != "" {
		how := script[min(number, len(script)-1)]
		if d, err := time.ParseDuration(how); err == nil {
			r.Header.Set("X-Wait", d.String())
			pause(r, "X-Wait")
		} else {
			fails(w, how)
		}
		return
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		a.rpc.ServeHTTP(w, r)
	}
}

// pause waits as long as the header says; false when the caller has gone.
func pause(r *http.Request, header string) bool {
	d, err := time.ParseDuration(r.Header.Get(header))
	if err != nil {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

func fails(w http.ResponseWriter, how string) {
	switch status, isRPC := strings.CutPrefix(how, "grpc:"); {
	case how == "reset":
		panic(http.ErrAbortHandler) // net/http's way to break a connection
	case isRPC: // with the headers: only then Envoy tries again
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", status)
	default:
		code, _ := strconv.Atoi(how)
		w.WriteHeader(code)
	}
}

const seenHeader = "X-Seen"

// answerRPC is a gRPC server of every service: a string in, what was seen out.
func answerRPC(_ any, stream grpc.ServerStream) error {
	var in wrapperspb.StringValue
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	return stream.SendMsg(wrapperspb.String(valueOf(stream.Context(), seenHeader)))
}

// triesOf are those of a request, at this application.
func (a *app) triesOf(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tries[id])
}

// checked are the health checks since the last change.
func (a *app) checked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.checks)
}

// forget begins to count anew.
func (a *app) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks, a.peak = nil, 0
}

// most is how many requests were answered at once since the last forget.
func (a *app) most() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.peak
}

// answering is how many requests are being answered.
func (a *app) answering() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy
}
