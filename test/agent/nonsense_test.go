//go:build linux

package agent

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// server is what sits at a control plane's address and is none.
type server struct {
	listener net.Listener
	wg       sync.WaitGroup
	taken    atomic.Int64 // connections

	mu    sync.Mutex
	open  map[net.Conn]bool
	ended bool
}

// serveRaw has that done to each connection, which is closed then. The address may be one that was in use just now.
func serveRaw(t *testing.T, address string, do func(net.Conn)) *server {
	t.Helper()
	l := testenv.Listen(t, "tcp", address)
	s := &server{listener: l, open: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.taken.Add(1)
			s.keep(c, true)
			s.wg.Go(func() { defer s.keep(c, false); do(c) })
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) keep(c net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open && !s.ended {
		s.open[c] = true
		return
	}
	delete(s.open, c)
	_ = c.Close()
}

func (s *server) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.ended = true // what was taken just now is closed, too
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// until reads until the other side is silent for a moment, so that what it gets next is an answer.
func hear(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, _ = io.Copy(io.Discard, c)
	_ = c.SetReadDeadline(time.Time{})
}

const settingsFrames = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x00\x04\x01\x00\x00\x00\x00" // and the acknowledgement

// What is no control plane at its address, at the start and later: Envoy is neither given up nor disturbed, the agent does
// not ask without pause, and the control plane serves when it is there.
func TestNonsense(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	i := 0
	for name, do := range map[string]func(net.Conn){
		"random bytes": func(c net.Conn) { _, _ = io.CopyN(c, rand.Reader, 64<<10) },
		"random bytes within HTTP/2": func(c net.Conn) {
			hear(c)
			_, _ = io.WriteString(c, settingsFrames)
			_, _ = io.CopyN(c, rand.Reader, 4<<10)
		},
		"HTTP/1.1": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
			hear(c)
		},
		"a reset at once": func(c net.Conn) {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		},
		"headers without end": func(c net.Conn) {
			_, _ = io.WriteString(c, settingsFrames)
			for { // CONTINUATION frames of 16 KiB
				if _, err := io.WriteString(c, "\x00\x40\x00\x09\x00\x00\x00\x00\x01"+strings.Repeat("\x00", 1<<14)); err != nil {
					return
				}
			}
		},
	} {
		envoy := envoys[i%len(envoys)]
		i++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, envoy)
			address := p.control.Addr
			p.control.Stop()
			began := time.Now()
			none := serveRaw(t, address, do)
			r := p.start(t)
			three := func() bool { return none.taken.Load() >= 3 || r.isOver() }
			testenv.Eventually(t, "three attempts", three)
			if r.isOver() {
				t.Fatal("the agent gave up")
			}
			none.stop()
			p.serveAt(t, address)
			pid := r.serves(t, 1, "first")
			testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })

			p.unbroken(t, func() {
				p.control.Stop()
				none = serveRaw(t, address, do)
				testenv.Eventually(t, "three attempts", three)
			})
			signal(t, pid, syscall.SIGKILL)
			r.serves(t, 2, "first") // the last good configuration
			none.stop()
			p.serveAt(t, address)
			p.say("second")
			r.serves(t, 2, "second")
			// 100 ms doubled, of which a half at least is waited: n attempts in a row take 50 ms times 2^n at least.
			t.Logf("%d connections to the last of two servers of nonsense; all took %s", none.taken.Load(), time.Since(began))
			if n := none.taken.Load(); n > 12 {
				t.Errorf("%d connections", n)
			}
			r.hurries(t)
			p.wantNothingLeft(t)
		})
	}
}

// raw sends bytes for messages.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, errors.New("no bytes")
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.New("no bytes")
	}
	*b = data.Materialize()
	return nil
}

// serveMessages is a server of gRPC that answers every message with those.
func serveMessages(t *testing.T, address string, messages ...[]byte) (streams *atomic.Int64, stop func()) {
	t.Helper()
	l := testenv.Listen(t, "tcp", address)
	streams = &atomic.Int64{}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		streams.Add(1)
		for {
			var request []byte
			if err := s.RecvMsg(&request); err != nil {
				return nil
			}
			for _, m := range messages {
				if err := s.SendMsg(m); err != nil {
					return err
				}
			}
		}
	}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	stop = func() { s.Stop(); wg.Wait() }
	t.Cleanup(stop)
	return streams, stop
}

// Messages that are none, from what speaks gRPC.
func TestNonsenseMessages(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	p := newProxy(t, envoys[0])
	address := p.control.Addr
	p.control.Stop()
	noise := make([]byte, 1<<10)
	_, err := rand.Read(noise)
	must(t, err)
	noise[0] = 0xff // a tag of no known wire type
	streams, stop := serveMessages(t, address, noise)
	r := p.start(t)
	testenv.Eventually(t, "two attempts", func() bool { return streams.Load() >= 2 || r.isOver() })
	stop()
	p.serveAt(t, address)
	pid := r.serves(t, 1, "first")
	testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })
	p.unbroken(t, func() {
		p.control.Stop()
		streams, stop = serveMessages(t, address, noise, []byte{}, noise[:1])
		testenv.Eventually(t, "two attempts", func() bool { return streams.Load() >= 2 })
	})
	t.Run("an Envoy that starts meanwhile has the last good configuration", func(t *testing.T) {
		signal(t, pid, syscall.SIGKILL)
		r.serves(t, 2, "first")
	})
	t.Logf("%d streams", streams.Load())
	stop()
	p.serveAt(t, address)
	p.say("second")
	r.serves(t, 2, "second")
	r.hurries(t)
	p.wantNothingLeft(t)
}

// Resources that are none, from a control plane that serves otherwise: Envoy refuses them and keeps what it has.
func TestNonsenseResources(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	p := newProxy(t, envoys[len(envoys)-1])
	r := p.start(t)
	pid := r.serves(t, 1, "first")
	testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) })
	before := kept(t, p.at("state"))
	p.unbroken(t, func() {
		for n, garbage := range []*anypb.Any{
			{TypeUrl: listenerType, Value: []byte{0xff, 0xff, 0xff}},
			{TypeUrl: listenerType},
			{TypeUrl: "type.googleapis.com/of.no.Kind", Value: []byte("x")},
			nil,
		} {
			p.send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: listenerType, Nonce: "nonsense", Resources: []*discoveryv3.Resource{{Name: "word", Version: "nonsense", Resource: garbage}}})
			testenv.Eventually(t, "Envoy refuses it", func() bool { return p.refusals() > n })
		}
	})
	if after := kept(t, p.at("state")); after != before {
		t.Error("what Envoy refused is kept")
	}
	// It dies while nobody is there: it must not be given what it refused.
	p.control.Stop()
	signal(t, pid, syscall.SIGKILL)
	r.serves(t, 2, "first")
	p.send(nil)
	p.serveAt(t, p.control.Addr)
	p.say("second")
	r.serves(t, 2, "second")
	r.hurries(t)
}
