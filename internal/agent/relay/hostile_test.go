package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// proven needs no search for credentials: such tests may run beside others, whose environment differs.
func proven(t testing.TB, endpoint string) (*Relay, discoveryv3.AggregatedDiscoveryServiceClient) {
	return newTestRelay(t, "APPMESH_XDS_ENDPOINT="+endpoint, "EVERMESH_TOKEN_FILE="+write(t, "token", "a.b.c"))
}

// The frames of HTTP/2 that the tests send and look for (RFC 9113, section 6).
const (
	dataFrame, headersFrame, resetFrame, settingsFrame, goAwayFrame = 0, 1, 3, 4, 7

	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	endsHeaders = 4
)

// http2 is a server's side of a connection, below what a library would let it do.
type http2 struct{ net.Conn }

func (c http2) send(kind, flags byte, stream uint32, payload []byte) {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	frame = binary.BigEndian.AppendUint32(append(frame, flags), stream)
	_, _ = c.Write(append(frame, payload...))
}

// opened waits for the next stream; ok is false at the connection's end.
func (c http2) opened() (stream uint32, ok bool) {
	header := make([]byte, 9)
	for {
		if _, err := io.ReadFull(c, header); err != nil {
			return 0, false
		}
		length := binary.BigEndian.Uint32(header) >> 8
		if _, err := io.CopyN(io.Discard, c, int64(length)); err != nil {
			return 0, false
		}
		if header[3] == headersFrame {
			return binary.BigEndian.Uint32(header[5:]), true
		}
	}
}

// settle answers HTTP/2's beginning, then does what the test wants.
func settle(then func(http2)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(preface))); err != nil {
			return
		}
		h := http2{c}
		h.send(settingsFrame, 0, 0, nil)
		h.send(settingsFrame, 1, 0, nil) // an acknowledgement
		then(h)
	}
}

// An Envoy that asks again and again makes the agent try an endpoint that is no good a few times, not thousands of
// times, whatever that endpoint does; nothing of it is left behind, which the end of all tests looks at.
func TestHostileEndpoints(t *testing.T) {
	t.Parallel()
	const during = 2 * time.Second
	// triesIn are the tries in that time at most: at 0, then after half of 100 ms at least, of 200 ms, of 400 ms, …: six in
	// two seconds.
	triesIn := func(took time.Duration) (n int32) {
		for wait := firstBackoff; took >= 0; wait = min(2*wait, lastBackoff) {
			took -= wait / 2
			n++
		}
		return n
	}
	for name, serve := range map[string]func(net.Conn){
		"hangs up at once": func(net.Conn) {},
		"sends garbage":    func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("\xde\xad\xbe\xef", 1<<14))) },
		"answers with HTTP/1.1": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		},
		"says GOAWAY": settle(func(c http2) {
			c.send(goAwayFrame, 0, 0, append(make([]byte, 8), "shutting down"...))
			_, _ = c.opened()
		}),
		"resets every stream": settle(func(c http2) {
			for stream, ok := c.opened(); ok; stream, ok = c.opened() {
				c.send(resetFrame, 0, stream, []byte{0, 0, 0, 7}) // REFUSED_STREAM
			}
		}),
		"sends a frame that is too large": settle(func(c http2) {
			c.send(dataFrame, 0, 1, make([]byte, 1<<20))
			_, _ = c.opened()
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, connections := raw(t, serve)
			relay, client := proven(t, "http://"+address)
			asked, began, took := int32(0), time.Now(), time.Duration(0)
			for ; took < during || asked < 2*triesIn(took); took = time.Since(began) {
				asked++
				s, err := client.DeltaAggregatedResources(agenttest.Within(t))
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "t"})
				if _, err := s.Recv(); status.Code(err) == codes.OK || status.Code(err) == codes.DeadlineExceeded {
					t.Fatalf("got %v", err)
				}
				agenttest.Tick(t)
			}
			// One more connection may look whether interception is at work, when the failure is news.
			if n, most := connections.Load(), triesIn(took); n > most+2 {
				t.Errorf("%d connections for %d streams in %s, want at most %d", n, asked, took, most)
			}
			if r := relay.Report(); r.OK() || len(r.Endpoints[0].Failures) != 1 {
				t.Errorf("got %q", r.Lines())
			}
		})
	}
}

// A message larger than a configuration may be ends the stream, before any of it is kept; the endpoint is left alone.
func TestMessageThatIsTooLarge(t *testing.T) {
	t.Parallel()
	address, connections := raw(t, settle(func(c http2) {
		for stream, ok := c.opened(); ok; stream, ok = c.opened() {
			// ":status: 200" and "content-type: application/grpc", as HPACK has them.
			c.send(headersFrame, endsHeaders, stream, append([]byte{0x88, 0x5f, 0x10}, "application/grpc"...))
			c.send(dataFrame, 0, stream, binary.BigEndian.AppendUint32([]byte{0}, maxMessage+1))
		}
	}))
	_, client := proven(t, "http://"+address)
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.ResourceExhausted || connections.Load() != 1 {
		t.Errorf("got %v after %d connections", err, connections.Load())
	}
}

// An Envoy that reads nothing holds the control plane up, not the agent's memory: a few messages are on their way.
func TestEnvoyThatReadsNothing(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	var sent atomic.Int32
	c := agenttest.NewControlPlane(t, "")
	c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		for {
			if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: strings.Repeat("x", size)}); err != nil {
				return err
			}
			sent.Add(1)
		}
	}
	_, client := proven(t, "http://"+c.Addr)
	s, err := client.DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "a message arrives", func() bool { return sent.Load() > 0 })
	for last, same := sent.Load(), 0; same < 50; same++ { // half a second without another one
		agenttest.Tick(t)
		if now := sent.Load(); now != last {
			last, same = now, 0
		}
	}
	if n := sent.Load(); n > 32 {
		t.Errorf("%d messages of %d bytes are on their way", n, size)
	}
	for range sent.Load() + 2 { // and then it goes on
		if r, err := s.Recv(); err != nil || len(r.TypeUrl) != size {
			t.Fatal(err)
		}
	}
}

// A control plane whose host vanishes without a word is noticed by unanswered pings, and Envoy's stream ends.
func TestHalfOpenConnection(t *testing.T) {
	t.Parallel()
	c := agenttest.NewControlPlane(t, "")
	var gone atomic.Bool
	pass := func(to io.Writer, from io.Reader) {
		buffer := make([]byte, 1<<14)
		for {
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			if !gone.Load() {
				_, _ = to.Write(buffer[:n])
			}
		}
	}
	address, _ := raw(t, func(down net.Conn) {
		up, err := net.Dial("tcp", c.Addr)
		if err != nil {
			return
		}
		defer up.Close()
		back := make(chan struct{})
		go func() { defer close(back); pass(down, up) }()
		pass(up, down)
		up.Close()
		<-back
	})
	relay, client := proven(t, "http://"+address)
	relay.upstreams.pingWait = time.Second // gRPC pings after 10 s at the earliest: only the wait for its answer can be shorter
	ctx := t.Context()
	s, err := client.DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "hello"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	began := time.Now()
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*(pingEvery+relay.upstreams.pingWait) {
		t.Errorf("noticed after %s", took)
	}
	if on, _ := relay.Connected(); on {
		t.Error("connected to a host that is gone")
	}
}

// What Envoy says before anybody answers is kept, up to a bound. Beyond it the stream ends, and does not go on with a part
// of what was said.
func TestTooMuchBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	c := agenttest.NewControlPlane(t, "")
	c.Delta = func(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
		for {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
	}
	_, client := proven(t, "http://"+c.Addr)
	s, err := client.DeltaAggregatedResources(agenttest.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	large := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: strings.Repeat("x", 1<<20)}
	for n := 0; n < 2*mostEarly>>20 && err == nil; n++ {
		err = s.Send(large)
	}
	if _, err := s.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "before an answer") {
		t.Errorf("got %v", err)
	}
}

// Two may find at once that a stream cannot go on, while it ends for a third reason: nobody waits for anybody to be told.
func TestBrokenTwice(t *testing.T) {
	t.Parallel()
	c := &call{broken: make(chan error, 1)}
	c.breaks(errGone)
	c.breaks(io.EOF)
	if err := <-c.broken; !errors.Is(err, errGone) {
		t.Errorf("got %v, want the first", err)
	}
}
