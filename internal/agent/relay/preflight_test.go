package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/auth"
)

// preflight parses the settings as the agent does and tries the way.
func preflight(t *testing.T, log *slog.Logger, lines ...string) Report {
	t.Helper()
	s, err := settings.Parse(agenttest.Environment(append([]string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1"}, lines...)...), settings.Flags{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Preflight(agenttest.Within(t), s, "test", log)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// raw takes connections and lets serve do with each what it likes.
func raw(t *testing.T, serve func(net.Conn)) (address string, count *atomic.Int32) {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	count = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			served := make(chan struct{})
			go func() {
				defer close(served)
				serve(conn)
				conn.Close()
			}()
			t.Cleanup(func() { conn.Close(); <-served })
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), count
}

// refusing is a control plane that ends each stream after its first request.
func refusing(t *testing.T, code codes.Code, text string) string {
	c := agenttest.NewControlPlane(t, "")
	c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		return status.Error(code, text)
	}
	return "http://" + c.Addr
}

// Which step failed, with what, and what helps: one line.
func TestPreflightNamesTheStep(t *testing.T) {
	agenttest.Unsigned(t)
	option, ca := agenttest.Certificate(t, []string{"localhost"})
	_, otherCA := agenttest.Certificate(t, []string{"localhost"})
	secure := agenttest.NewControlPlane(t, "", option)
	_, port, err := net.SplitHostPort(secure.Addr)
	if err != nil {
		t.Fatal(err)
	}
	plainWeb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }))
	t.Cleanup(plainWeb.Close)
	garbage, _ := raw(t, func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("\xde\xad\xbe\xef", 4096))) })
	nothing := grpc.NewServer()
	unknown := listen(t, "tcp", "127.0.0.1:0")
	go func() { _ = nothing.Serve(unknown) }()
	t.Cleanup(nothing.Stop)
	for _, test := range []struct {
		name string
		env  []string
		step Step
		says []string // all of them in the line
	}{
		{"TRBL-002 a name without an address", []string{"APPMESH_XDS_ENDPOINT=https://control.invalid:7071"}, StepDNS, []string{"control.invalid", "name server", "APPMESH_XDS_ENDPOINT"}},
		{"TRBL-002 a port where nobody listens", []string{"APPMESH_XDS_ENDPOINT=https://127.0.0.1:1"}, StepTCP, []string{"connection refused", "evermeshd must run there"}},
		{"TRBL-002 a CA that is not the server's", []string{"APPMESH_XDS_ENDPOINT=https://localhost:" + port, "APPMESH_XDS_CA_FILE=" + otherCA}, StepTLS, []string{"unknown authority", otherCA, "APPMESH_XDS_CA_FILE"}},
		{"a name that is not the server's", []string{"APPMESH_XDS_ENDPOINT=https://127.0.0.1:" + port, "APPMESH_XDS_CA_FILE=" + ca}, StepTLS, []string{"in the server's certificate"}},
		{"a server without TLS", []string{"APPMESH_XDS_ENDPOINT=https://" + plainWeb.Listener.Addr().String()}, StepTLS, []string{"speaks no TLS", "http://"}},
		{"a server that answers with HTTP/1.1", []string{"APPMESH_XDS_ENDPOINT=" + plainWeb.URL}, StepXDS, []string{"HTTP/1.1", "7071"}},
		{"a server with TLS, asked in plaintext", []string{"APPMESH_XDS_ENDPOINT=http://" + secure.Addr}, StepXDS, []string{"https:// if it has TLS"}},
		{"garbage", []string{"APPMESH_XDS_ENDPOINT=http://" + garbage}, StepXDS, []string{"xDS port of evermeshd"}},
		{"garbage instead of TLS", []string{"APPMESH_XDS_ENDPOINT=https://" + garbage}, StepTLS, []string{"speaks no TLS"}},
		{"another service", []string{"APPMESH_XDS_ENDPOINT=http://" + unknown.Addr().String()}, StepXDS, []string{"code 12", "7071"}},
		{"a token that is not there", []string{"APPMESH_XDS_ENDPOINT=https://localhost:" + port, "EVERMESH_TOKEN_FILE=/nowhere/token"}, StepCredentials, []string{"/nowhere/token, which is not there"}},
		{"TRBL-002 no credentials", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.Unauthenticated, "Missing Authentication Token")}, StepCredentials, []string{"code 16", "none found, so not signed", "EVERMESH_TOKEN_FILE"}},
		{"TRBL-002 no permission", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.PermissionDenied, "Unauthorized to perform appmesh:StreamAggregatedResources for arn.")}, StepPermission, []string{"code 7", "node mesh/m/virtualNode/n", "action appmesh:StreamAggregatedResources"}},
		{"no such node", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.InvalidArgument, "arn does not exist")}, StepResource, []string{"code 3", "APPMESH_RESOURCE_ARN"}},
		{"too many proxies", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.ResourceExhausted, "quota")}, StepQuota, []string{"code 8"}},
		{"an error without a message", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.Internal, "")}, StepService, []string{"code 13, no message", "interception"}},
		{"a replica that is being stopped", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.Unavailable, "shutting down")}, StepService, []string{"code 14"}},
		{"an end without an error", []string{"APPMESH_XDS_ENDPOINT=" + refusing(t, codes.OK, "")}, StepService, []string{"ended the stream at once"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, lines := agenttest.Log(t)
			r := preflight(t, log, test.env...)
			if r.OK() || len(r.Endpoints) != 1 || len(r.Endpoints[0].Failures) != 1 {
				t.Fatalf("got %+v", r)
			}
			f := r.Endpoints[0].Failures[0]
			if f.Step != test.step || strings.Contains(f.Error(), "\n") {
				t.Errorf("got step %s, want %s: %s", f.Step, test.step, f.Error())
			}
			for _, want := range test.says {
				if !strings.Contains(f.Error(), want) {
					t.Errorf("%s: does not say %q", f.Error(), want)
				}
			}
			if n := strings.Count(lines.String(), "control plane does not answer"); n != 1 || !strings.Contains(strings.Join(r.Lines(), "\n"), f.Error()) {
				t.Errorf("told %d times: %s; lines %q", n, lines.String(), r.Lines())
			}
		})
	}
}

// A port that takes connections and says nothing, with and without TLS; what takes a stream and says nothing.
func TestSilence(t *testing.T) {
	t.Parallel()
	silent, _ := raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	hangs := agenttest.NewControlPlane(t, "")
	hangs.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		<-s.Context().Done()
		return nil
	}
	for _, test := range []struct {
		name, endpoint string
		step           Step
		says           string
	}{
		{"plaintext", "http://" + silent, StepXDS, "no connection within 5s"},
		{"TLS", "https://" + silent, StepTLS, "no connection within 5s"},
		{"a stream", "http://" + hangs.Addr, StepService, "no answer to the first request within 5s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			log, _ := agenttest.Log(t)
			r := preflight(t, log, "APPMESH_XDS_ENDPOINT="+test.endpoint, "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
			if f := r.Endpoints[0].Failures; len(f) != 1 || f[0].Step != test.step || !strings.Contains(f[0].Reason, test.says) {
				t.Errorf("got %q", r.Lines())
			}
		})
	}
}

// A name server that says nothing is a matter of DNS, too, and takes no longer than a connection may.
func TestSilentNameServer(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	relay, client := proven(t, "https://control.test:7071")
	relay.upstreams.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", silent.LocalAddr().String())
	}}
	for range 3 { // the first one waits for it, the others are told at once
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "DNS failed: ") {
			t.Errorf("got %v", err)
		}
	}
	if r := relay.Report(); len(r.Endpoints[0].Failures) != 1 || r.Endpoints[0].Failures[0].Step != StepDNS {
		t.Errorf("got %q", r.Lines())
	}
}

func TestPreflightOfAllThatServes(t *testing.T) {
	agenttest.Signed(t)
	a := agenttest.NewControlPlane(t, "", agenttest.Verifying())
	got := make(chan *discoveryv3.DeltaDiscoveryRequest, 1)
	a.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		got <- r
		if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl}); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}
	log, lines := agenttest.Log(t)
	r := preflight(t, log, "APPMESH_XDS_ENDPOINT=http://"+a.Addr+",http://127.0.0.1:1")
	if ask := <-got; ask.GetNode().GetId() != "mesh/m/virtualNode/n" || ask.GetTypeUrl() != cdsType {
		t.Errorf("asked %v", ask)
	}
	if !r.OK() || !r.Endpoints[0].Served || r.Endpoints[1].Served || !strings.Contains(r.Proof, "signature, credentials from environment") {
		t.Errorf("got %q", r.Lines())
	}
	if strings.Contains(lines.String()+strings.Join(r.Lines(), ""), "wJalrXUtnFEMI") {
		t.Error("the secret key is told")
	}
}

// The same failure is told once a minute, another one at once; that it serves again makes the next one news.
func TestFailuresAreToldOnce(t *testing.T) {
	t.Parallel()
	r := newReports()
	e := settings.Endpoint{Network: "tcp", Address: "control.example:7071", TLS: true}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	refused := func(port string) *Failure {
		return &Failure{Endpoint: e.String(), Address: "10.0.0.1:7071", Step: StepTCP, Reason: "read tcp 10.0.0.9:" + port + ": connection refused"}
	}
	gone := func(reason string) *Failure {
		return &Failure{Endpoint: e.String(), Address: "10.0.0.1:7071", Step: StepXDS, Reason: reason}
	}
	other := refused("1")
	other.Address = "10.0.0.2:7071"
	tls := refused("1")
	tls.Step = StepTLS
	for _, step := range []struct {
		name  string
		after time.Duration
		f     *Failure
		tell  bool
	}{
		{"the first", 0, refused("1"), true},
		{"the same from another port", time.Second, refused("2"), false},
		{"another address", 0, other, true},
		{"it hangs up", 0, gone("error reading server preface: read tcp 10.0.0.9:4: connection reset by peer\""), true},
		{"it hangs up as this side writes", 0, gone("write tcp 10.0.0.9:5: broken pipe"), false},
		{"it hangs up with a word", 0, gone("error reading server preface: EOF"), false},
		{"another step", 0, tls, true},
		{"the first again", 50 * time.Second, refused("3"), false},
		{"a minute later", 10 * time.Second, refused("4"), true},
	} {
		now = now.Add(step.after)
		if tell := r.failed(e, step.f, now); tell != step.tell {
			t.Errorf("%s: told %t", step.name, tell)
		}
	}
	r.served(e, now)
	if got := r.list([]settings.Endpoint{e})[0]; !got.Served || got.Failures != nil {
		t.Errorf("got %+v", got)
	}
	if !r.failed(e, refused("5"), now) {
		t.Error("a failure after it has served is no news")
	}
	for range 10 * maxFailures {
		r.failed(e, &Failure{Address: time.Duration(len(r.said)).String()}, now)
	}
	if n := len(r.list([]settings.Endpoint{e})[0].Failures); n != maxFailures {
		t.Errorf("%d failures are kept", n)
	}
}

// A clock that is off by a day is refused once and corrected, also when it becomes right again.
func TestClockThatJumps(t *testing.T) {
	agenttest.Signed(t)
	var ahead atomic.Int64 // this machine's clock
	theirs := auth.NewVerifier(agenttest.Keys{}, "us-east-1", []string{"appmesh"}, time.Now)
	c := agenttest.NewControlPlane(t, "", grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		if _, err := theirs.Verify(s.Context(), auth.StreamRequest(info.FullMethod, md)); err != nil {
			return status.Errorf(codes.Unauthenticated, "%v", err)
		}
		return next(srv, s)
	}))
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	relay.upstreams.signer.clock.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	tries := 0
	ask := func() error {
		tries++
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			return err
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = s.Recv()
		return err
	}
	open := converse(t, client)
	for _, jump := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour, 4 * time.Minute, 0} {
		ahead.Store(int64(jump))
		tries = 0
		for err := ask(); err != nil; err = ask() {
			if status.Code(err) != codes.Unauthenticated || tries > 1 {
				t.Fatalf("jump by %s, try %d: %v", jump, tries, err)
			}
		}
	}
	ahead.Store(int64(24 * time.Hour))
	_ = ask()
	if r := relay.Report(); (r.ClockOffset+24*time.Hour).Abs() > 10*time.Second || !strings.Contains(strings.Join(r.Lines(), "\n"), "ahead of the control plane's") {
		t.Errorf("got %s: %q", r.ClockOffset, r.Lines())
	}
	// A stream that is open goes on.
	if err := open.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "later"}); err != nil {
		t.Fatal(err)
	}
	if r, err := open.Recv(); err != nil || r.TypeUrl != "later" {
		t.Errorf("the open stream: %v, %v", r, err)
	}
}
