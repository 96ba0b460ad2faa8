package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestRelayBothMethods(t *testing.T) {
	agenttest.Unsigned(t)
	c := agenttest.NewControlPlane(t, "")
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	t.Run("state of the world", func(t *testing.T) {
		s, err := client.StreamAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, version := range []string{"1", "2"} {
			if err := s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: "t", VersionInfo: version, ResponseNonce: "n" + version}); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Recv(); err != nil || r.TypeUrl != "t" || r.VersionInfo != version || r.Nonce != "n"+version {
				t.Fatalf("got %v, %v", r, err)
			}
		}
		// Half closed by Envoy, so by the relay: the server ends the stream with status 0.
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want status 0", err)
		}
	})
	t.Run("delta", func(t *testing.T) {
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t", ResourceNamesSubscribe: []string{"a", "b"}}); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Recv(); err != nil || !slices.Equal(r.RemovedResources, []string{"a", "b"}) {
			t.Fatalf("got %v, %v", r, err)
		}
		if on, _ := relay.Connected(); !on {
			t.Error("not connected while the control plane answers")
		}
	})
	testenv.Eventually(t, "not connected after the streams have ended", func() bool { on, _ := relay.Connected(); return !on })
}

// What the relay does not know it passes on: a field of a later release, and resources of 20 MiB.
func TestRelayMessagesUnread(t *testing.T) {
	agenttest.Unsigned(t)
	unknown := protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "later")
	large := bytes.Repeat([]byte("x"), 20<<20)
	var got *discoveryv3.DiscoveryRequest
	c := agenttest.NewControlPlane(t, "")
	c.Whole = func(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
		var err error
		if got, err = s.Recv(); err != nil {
			return err
		}
		r := &discoveryv3.DiscoveryResponse{TypeUrl: "t", Resources: []*anypb.Any{{TypeUrl: "t", Value: large}}}
		r.ProtoReflect().SetUnknown(unknown)
		return s.Send(r)
	}
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	s, err := client.StreamAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	sent := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "n"}}
	sent.ProtoReflect().SetUnknown(unknown)
	if err := s.Send(sent); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.ProtoReflect().GetUnknown(), unknown) || !bytes.Equal(r.Resources[0].Value, large) {
		t.Error("the response was changed")
	}
	if !proto.Equal(got, sent) {
		t.Errorf("the request was changed: %v", got)
	}
}

// The end of the control plane's stream is the end of Envoy's, with the same status, whatever Envoy does then.
func TestRelayStatus(t *testing.T) {
	agenttest.Unsigned(t)
	refusal, err := status.New(codes.InvalidArgument, "no such virtual node").WithDetails(&discoveryv3.DiscoveryRequest{TypeUrl: "detail"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		end  *status.Status
	}{
		{"graceful", status.New(codes.OK, "")},
		{"resource does not exist", refusal},
		{"not authorised", status.New(codes.PermissionDenied, "StreamAggregatedResources")},
		{"too many", status.New(codes.ResourceExhausted, "connected Envoy processes")},
		{"no credentials", status.New(codes.Unauthenticated, "Missing Authentication Token")},
	} {
		for _, busy := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: " while Envoy sends", false: " while Envoy is silent"}[busy], func(t *testing.T) {
				c := agenttest.NewControlPlane(t, "")
				c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
					if _, err := s.Recv(); err != nil {
						return err
					}
					return test.end.Err()
				}
				_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
				s, err := client.DeltaAggregatedResources(agenttest.Within(t))
				if err != nil {
					t.Fatal(err)
				}
				for err = s.Send(&discoveryv3.DeltaDiscoveryRequest{}); busy && err == nil; {
					err = s.Send(&discoveryv3.DeltaDiscoveryRequest{})
				}
				_, err = s.Recv()
				if errors.Is(err, io.EOF) {
					err = nil
				}
				got := status.Convert(err)
				if got.Code() != test.end.Code() || got.Message() != test.end.Message() || len(got.Details()) != len(test.end.Details()) {
					t.Errorf("got %v %v, want %v", got, got.Details(), test.end)
				}
			})
		}
	}
}

func TestRelayUpstreamDies(t *testing.T) {
	agenttest.Unsigned(t)
	c := agenttest.NewControlPlane(t, "")
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	s := converse(t, client)
	c.Stop()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want UNAVAILABLE", err)
	}
	testenv.Eventually(t, "not connected", func() bool { on, _ := relay.Connected(); return !on })
	// Envoy's next streams end, each with the reason, until the control plane is back.
	ask := func() error {
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			return err
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "later"}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = s.Recv()
		return err
	}
	for range 3 {
		err := ask()
		if text := status.Convert(err).Message(); status.Code(err) != codes.Unavailable || !strings.HasPrefix(text, "no control plane takes a stream: http://"+c.Addr+": ") {
			t.Fatalf("got %v, want UNAVAILABLE and why", err)
		}
	}
	agenttest.NewControlPlane(t, c.Addr)
	testenv.Eventually(t, "the control plane that is back serves", func() bool { return ask() == nil })
}

// converse opens a stream and has one answer.
func converse(t *testing.T, client discoveryv3.AggregatedDiscoveryServiceClient) discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient {
	t.Helper()
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "hello"}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || r.TypeUrl != "hello" {
		t.Fatalf("got %v, %v", r, err)
	}
	return s
}

// draws are as many streams as it takes for each of two, in a random order, to serve some: but once in 2^39 times.
const draws = 40

func TestRelayFailsOver(t *testing.T) {
	agenttest.Unsigned(t)
	a, b := agenttest.NewControlPlane(t, ""), agenttest.NewControlPlane(t, "")
	dead := net.JoinHostPort("127.0.0.1", "1")
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+dead+", http://"+a.Addr+",http://"+b.Addr)
	for range draws {
		converse(t, client)
	}
	if a.Count()+b.Count() != draws || a.Count() == 0 || b.Count() == 0 {
		t.Errorf("streams: %d and %d, want %d in all and some of each", a.Count(), b.Count(), draws)
	}
	// A stream of a's, which then dies.
	s, of := converse(t, client), 0
	for of = a.Count(); a.Count() == of; {
		s = converse(t, client)
	}
	a.Stop()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want UNAVAILABLE", err)
	}
	before := b.Count()
	converse(t, client)
	if b.Count() != before+1 {
		t.Error("the next stream is not the other endpoint's")
	}
}

// A name with several addresses is as good as several endpoints.
func TestRelayAddressesOfAName(t *testing.T) {
	agenttest.Unsigned(t)
	a := agenttest.NewControlPlane(t, "")
	_, port, err := net.SplitHostPort(a.Addr)
	if err != nil {
		t.Fatal(err)
	}
	b := agenttest.NewControlPlane(t, "127.0.0.2:"+port)
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://control.test:"+port)
	relay.upstreams.dialer.Resolver = nameServer(t, "control.test.", "127.0.0.1", "127.0.0.2", "127.0.0.3")
	for range draws {
		converse(t, client)
	}
	if a.Count()+b.Count() != draws || a.Count() == 0 || b.Count() == 0 {
		t.Errorf("streams: %d and %d, want %d in all and some of each", a.Count(), b.Count(), draws)
	}
	a.Stop()
	before := b.Count()
	converse(t, client)
	if b.Count() != before+1 {
		t.Error("the next stream is not the other address's")
	}
}

// nameServer is a resolver that knows one name.
func nameServer(t *testing.T, name string, addresses ...string) *net.Resolver {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		for _, address := range addresses {
			if q.Question[0].Qtype == dns.TypeA && q.Question[0].Name == name {
				answer.Answer = append(answer.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(address),
				})
			}
		}
		_ = w.WriteMsg(answer)
	})
	server := &dns.Server{PacketConn: l, Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", l.LocalAddr().String())
	}}
}

func TestRelayToASocket(t *testing.T) {
	agenttest.Signed(t)
	path := filepath.Join(agenttest.ShortDir(t), "control.sock")
	agenttest.NewControlPlane(t, path, agenttest.Verifying())
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=xds+unix://"+path)
	converse(t, client)
}

// An endpoint that takes connections and says nothing does not hold Envoy up.
func TestRelaySilentEndpoint(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := agenttest.NewControlPlane(t, "")
	relay, client := proven(t, "http://"+silent.Addr().String()+",http://"+c.Addr)
	address := silent.Addr().String()
	for relay.upstreams.fault(address).until.IsZero() { // until it was its turn
		converse(t, client)
	}
	// From then on it comes last, also when it is not left alone any more: nobody waits for it again.
	relay.upstreams.served(address)
	for range 20 {
		converse(t, client)
	}
	if !relay.upstreams.fault(address).until.IsZero() {
		t.Error("the silent endpoint was tried again before the one that serves")
	}
}

// The mark that keeps interception away is on the agent's sockets; without the right to set it the error says so.
func TestMark(t *testing.T) {
	c := agenttest.NewControlPlane(t, "")
	conn, err := newDialer(0x539).DialContext(t.Context(), "tcp", c.Addr)
	if err != nil {
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "EVERMESH_IGNORE_MARK needs the capability NET_ADMIN") {
			t.Error(err)
		}
		return
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if mark, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != 0x539 {
			t.Errorf("got mark %#x, %v", mark, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// An endpoint that takes a stream only to end it is left alone for a while: the other one is tried, and comes first from
// then on.
func TestRelayLeavesRefusingEndpoint(t *testing.T) {
	agenttest.Unsigned(t)
	a, b := agenttest.NewControlPlane(t, ""), agenttest.NewControlPlane(t, "")
	a.Delta = func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		return status.Error(codes.Unavailable, "cut off from the store")
	}
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+a.Addr+",http://"+b.Addr)
	open := func() error {
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, err = s.Recv()
		return err
	}
	for a.Count() == 0 { // until it was its turn
		if err := open(); (err != nil) != (a.Count() > 0) {
			t.Fatalf("got %v", err)
		}
	}
	// It is left alone for a moment, which may have passed: here it lasts.
	u := relay.upstreams
	u.mu.Lock()
	refusing := u.faulty[a.Addr]
	if refusing.count != 1 || refusing.until.IsZero() {
		t.Errorf("after the refusal: %+v", refusing)
	}
	refusing.until = time.Now().Add(time.Hour)
	u.faulty[a.Addr] = refusing
	u.mu.Unlock()
	before := b.Count()
	for range 20 {
		if err := open(); err != nil {
			t.Fatalf("while the refusing endpoint is left alone: %v", err)
		}
	}
	if a.Count() != 1 || b.Count() != before+20 {
		t.Errorf("%d streams of the refusing endpoint, %d of the other one", a.Count(), b.Count()-before)
	}
}

// leaving is the stream of an Envoy that is gone, which its context does not know yet.
type leaving struct{ grpc.ServerStream }

func (leaving) Context() context.Context { return context.Background() }
func (leaving) SendMsg(any) error        { return status.Error(codes.Unavailable, "transport is closing") }

// That Envoy is gone is no failure of the control plane's, also when sending says so first.
func TestEnvoyIsGoneBeforeItsContext(t *testing.T) {
	t.Parallel()
	c := agenttest.NewControlPlane(t, "")
	r, _ := proven(t, "http://"+c.Addr)
	up, err := r.upstreams.open(t.Context(), "/"+adsService+"/"+delta)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if err := up.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(hello)}}); err != nil {
		t.Fatal(err)
	}
	first, err := up.answered()
	if err != nil {
		t.Fatal(err)
	}
	call := &call{Relay: r, down: leaving{}, seen: r.kept.Begin(true), cause: func() error { return nil }}
	if err := call.descend(reached{up: up, first: first}); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	if f := r.upstreams.fault(c.Addr); f.count > 0 || !r.Report().OK() {
		t.Errorf("the end counts as a failure: %+v, %q", f, r.Report().Lines())
	}
}

// When Envoy leaves, its stream to the control plane ends.
func TestRelayEnvoyLeaves(t *testing.T) {
	agenttest.Unsigned(t)
	ended := make(chan error, 1)
	c := agenttest.NewControlPlane(t, "")
	c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		<-s.Context().Done()
		ended <- s.Context().Err()
		return nil
	}
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := client.DeltaAggregatedResources(ctx); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the stream arrives", func() bool { return c.Count() == 1 })
	cancel()
	select {
	case <-ended:
	case <-time.After(agenttest.Wait):
		t.Error("the control plane's stream goes on")
	}
}

func TestRelaySignsOverTLS(t *testing.T) {
	agenttest.Signed(t)
	option, ca := agenttest.Certificate(t, []string{"localhost"}, net.IPv4(127, 0, 0, 1))
	c := agenttest.NewControlPlane(t, "", option, agenttest.Verifying())
	_, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{c.Addr, "https://localhost:" + port} {
		t.Run("AGENT-044 "+endpoint[:8], func(t *testing.T) {
			_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+endpoint, "APPMESH_XDS_CA_FILE="+ca)
			converse(t, client)
			if s, err := client.StreamAggregatedResources(agenttest.Within(t)); err != nil {
				t.Fatal(err)
			} else if err := s.Send(&discoveryv3.DiscoveryRequest{TypeUrl: "t"}); err != nil {
				t.Fatal(err)
			} else if r, err := s.Recv(); err != nil || r.TypeUrl != "t" {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	t.Run("a CA that signed another certificate is refused", func(t *testing.T) {
		_, other := agenttest.Certificate(t, []string{"localhost"})
		_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+c.Addr, "APPMESH_XDS_CA_FILE="+other)
		before := c.Count()
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "certificate") || c.Count() != before {
			t.Errorf("got %v and %d streams", err, c.Count()-before)
		}
	})
	t.Run("without credentials the control plane says so", func(t *testing.T) {
		agenttest.Unsigned(t)
		_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+c.Addr, "APPMESH_XDS_CA_FILE="+ca)
		s, err := client.DeltaAggregatedResources(agenttest.Within(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "Missing Authentication Token") {
			t.Errorf("got %v", err)
		}
	})
}

// The authority is what is signed: the port that the scheme implies is left out, as the signer leaves it out.
func TestSignatureOfImpliedPort(t *testing.T) {
	agenttest.Signed(t)
	for _, endpoint := range []string{"control.example:443", "http://control.example:80", "http://control.example:7071", "https://[::1]"} {
		asked, err := settings.Parse(agenttest.Environment("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT="+endpoint), settings.Flags{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		e := asked.Endpoints[0]
		log, _ := agenttest.Log(t)
		const method = "/" + adsService + "/" + delta
		md, err := newSigner(newChain(newDialer(0), log), "us-east-1", "appmesh", log).sign(t.Context(), e, method)
		if err != nil {
			t.Fatal(err)
		}
		md.Set(":authority", e.Authority)
		if err := verify(t.Context(), method, md); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestRelaySocket(t *testing.T) {
	agenttest.Unsigned(t)
	log, _ := agenttest.Log(t)
	path := filepath.Join(agenttest.ShortDir(t), "xds.sock")
	u := &upstreams{}
	r, err := newRelay(path, u, newKeeper(t), log)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}
	if _, err := newRelay(path, u, newKeeper(t), log); err == nil || !strings.Contains(err.Error(), "another process serves there") {
		t.Errorf("a second relay on the same socket: %v", err)
	}
	r.Close()
	// A socket that nobody serves is what a killed agent leaves.
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	r, err = newRelay(path, u, newKeeper(t), log)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

func TestBackoff(t *testing.T) {
	u := &upstreams{faulty: map[string]fault{}}
	for i, most := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000} {
		most *= time.Millisecond
		before := time.Now()
		until := u.failed("a", "").until
		if least, longest := until.Sub(before), time.Until(until); least < most/2 || longest > most {
			t.Errorf("after failure %d: waits %s to %s, want half to whole of %s", i+1, longest, least, most)
		}
	}
	u.served("a")
	if got := time.Until(u.failed("a", "").until); got > firstBackoff {
		t.Errorf("after it has served: waits %s", got)
	}
}
