package meshdns_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/meshdns"
	"github.com/evermesh/evermesh/internal/testenv"
)

// crowd makes a service with more places than fit into one answer over UDP.
func crowd(g *ground) {
	s := g.create(g.namespace("apps.local", 5), "crowd", "MULTIVALUE", "SRV 0")
	for i := range 8 {
		g.register(s, fmt.Sprintf("%d-%s", i, strings.Repeat("x", 60)), "AWS_INSTANCE_IPV4", fmt.Sprintf("10.0.0.%d", i), "AWS_INSTANCE_IPV6", fmt.Sprintf("fd00::%d", i), "AWS_INSTANCE_PORT", "80")
	}
	g.t.Helper()
	testenv.Eventually(g.t, "all places are answered", func() bool { return len(g.exchangeTCP(question("crowd.apps.local", dns.TypeSRV)).Answer) == 8 })
}

func (g *ground) exchangeTCP(m *dns.Msg) *dns.Msg {
	g.t.Helper()
	out, _, err := (&dns.Client{Net: "tcp", Timeout: testenv.Patience}).Exchange(m, g.tcp)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

func TestSizes(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	crowd(g)
	for _, c := range []struct {
		name string
		size uint16 // 0 is a client without EDNS
		most int
		cut  bool // not all places fit
	}{
		{"a client without EDNS", 0, 512, true},
		{"a client that takes less than it must", 100, 512, true},
		{"a client that says", 700, 700, true},
		{"a client that takes all", 65535, 1232, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := new(dns.Msg).SetQuestion("crowd.apps.local.", dns.TypeSRV)
			if c.size > 0 {
				q.SetEdns0(c.size, false)
			}
			m := g.exchange(q)
			packed, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			m.Compress = true
			if n := m.Len(); n > c.most || m.Truncated != c.cut || c.cut == (len(m.Answer) == 8) {
				t.Errorf("%d bytes (%d packed), truncated: %v, %d places; want at most %d", n, len(packed), m.Truncated, len(m.Answer), c.most)
			}
			if (m.IsEdns0() != nil) != (c.size > 0) {
				t.Errorf("EDNS in the answer: %v", m.IsEdns0())
			}
		})
	}
	t.Run("all over TCP", func(t *testing.T) {
		if m := g.exchangeTCP(question("crowd.apps.local", dns.TypeSRV)); m.Truncated || len(m.Answer) != 8 || len(m.Extra) != 17 {
			t.Errorf("got %v", m)
		}
	})
	t.Run("a version of EDNS that is not there yet", func(t *testing.T) {
		q := question("crowd.apps.local", dns.TypeSRV)
		q.IsEdns0().SetVersion(1)
		if m := g.exchange(q); m.Rcode != dns.RcodeBadVers || len(m.Answer) != 0 {
			t.Errorf("got %v", m)
		}
	})
	t.Run("another class", func(t *testing.T) {
		q := question("version.bind", dns.TypeTXT)
		q.Question[0].Qclass = dns.ClassCHAOS
		if m := g.exchange(q); m.Rcode != dns.RcodeRefused {
			t.Errorf("got %v", m)
		}
	})
	t.Run("another opcode", func(t *testing.T) {
		q := question("apps.local", dns.TypeSOA)
		q.Opcode = dns.OpcodeUpdate
		if m := g.exchange(q); m.Rcode != dns.RcodeNotImplemented {
			t.Errorf("got %v", m)
		}
	})
}

// What is no query is not answered, so that two servers cannot be set on each
// other, and hurts nobody.
func TestWhatIsNoQuery(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.namespace("apps.local", 5)
	conn, err := net.Dial("udp", g.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	reply := question("apps.local", dns.TypeSOA)
	reply.Response = true
	packed, err := reply.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range [][]byte{{}, {0}, []byte("GET / HTTP/1.1\r\n\r\n"), packed} {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	// Behind all of them comes a query, and its answer is the first.
	q := question("apps.local", dns.TypeSOA)
	g.until("apps.local", dns.TypeNS, "NOERROR\nNS 5 ns.apps.local.")
	if packed, err = q.Pack(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(packed); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(testenv.Patience)); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 4096); ; {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(buffer[:n]); err != nil {
			t.Fatalf("%v: %q", err, buffer[:n])
		}
		if m.Id == q.Id {
			return
		}
		if m.Rcode != dns.RcodeFormatError && m.Rcode != dns.RcodeNotImplemented {
			t.Errorf("what is no query is answered: %v", &m)
		}
	}
}

// Connections that do nothing keep nobody out.
func TestIdleConnections(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.namespace("apps.local", 5)
	g.until("apps.local", dns.TypeNS, "NOERROR\nNS 5 ns.apps.local.")
	for range 300 { // more than there may be
		conn, err := net.Dial("tcp", g.tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	if got := said(g.exchangeTCP(question("apps.local", dns.TypeNS))); got != "NOERROR\nNS 5 ns.apps.local." {
		t.Errorf("behind 300 connections that do nothing: %s", got)
	}
}

// A client that asks too much over UDP is told to come over TCP, with no more bytes
// than it sent.
func TestLimit(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var clock sync.Mutex
	g := serve(t, func(c *meshdns.Config) {
		c.Rate = 5
		c.Now = func() time.Time {
			clock.Lock()
			defer clock.Unlock()
			return now
		}
	})
	g.namespace("apps.local", 5)
	q := question("apps.local", dns.TypeSOA)
	testenv.Eventually(t, "the namespace is answered over TCP", func() bool { return len(g.exchangeTCP(q).Answer) == 1 })
	limited := func() (n int) {
		for range 20 {
			m := g.exchange(q)
			if !m.Truncated {
				continue
			}
			n++
			if len(m.Answer)+len(m.Ns) > 0 || m.Len() > q.Len() {
				t.Fatalf("%d bytes for %d: %v", m.Len(), q.Len(), m)
			}
		}
		return n
	}
	if n := limited(); n != 10 {
		t.Errorf("of 20 at once %d are limited, want 10 with a rate of 5", n)
	}
	if m := g.exchangeTCP(q); m.Truncated || len(m.Answer) != 1 {
		t.Errorf("over TCP: %v", m)
	}
	clock.Lock()
	now = now.Add(time.Second)
	clock.Unlock()
	if n := limited(); n != 15 {
		t.Errorf("of 20 a second later %d are limited, want 15", n)
	}
	if n := g.count("SOA LIMITED"); n != 25 {
		t.Errorf("%d are counted, want 25", n)
	}
}

// Other names are somebody else's to answer, where there is somebody.
func TestForward(t *testing.T) {
	t.Parallel()
	elsewhere, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked sync.Map
	upstream := &dns.Server{PacketConn: elsewhere, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		name := q.Question[0].Name
		asked.Store(name, true)
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		switch name {
		case "gone.example.com.":
			m.Rcode = dns.RcodeNameError
		case "silent.example.com.":
			return
		default:
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)})
		}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan error, 1)
	go func() { ended <- upstream.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = upstream.Shutdown()
		<-ended
	})
	g := serve(t, func(c *meshdns.Config) {
		addressing("orders.example.com")(c)
		c.Forward = elsewhere.LocalAddr().String()
	})
	g.namespace("apps.local", 5)
	g.until("none.apps.local", dns.TypeA, "NXDOMAIN")
	asked.Clear() // before the namespace was known here, its names were somebody else's
	for name, want := range map[string]string{
		"none.apps.local": "NXDOMAIN",
		"www.example.com": "NOERROR\nA 60 192.0.2.1", "gone.example.com": "NXDOMAIN", "orders.example.com": "NOERROR\nA 5 10.10.10.10",
	} {
		g.until(name, dns.TypeA, want) // again where a busy machine took longer than queries are forwarded for
	}
	for _, name := range []string{"none.apps.local.", "orders.example.com."} {
		if _, was := asked.Load(name); was {
			t.Errorf("%s was forwarded", name)
		}
	}
	q := question("www.example.com", dns.TypeA)
	q.RecursionDesired = false
	if m := g.exchange(q); m.Rcode != dns.RcodeRefused {
		t.Errorf("a query that does not want it was forwarded: %v", m)
	}
	if m := g.exchange(question("www.example.com", dns.TypeANY)); m.Rcode != dns.RcodeRefused {
		t.Errorf("a query for everything was forwarded: %v", m)
	}
	if got := g.asks("silent.example.com", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("what nobody answers is %s", got)
	}
}

// FuzzQuery answers any packet that is a query: without a panic, within the size
// that the client takes, and with an answer that can be read.
func FuzzQuery(f *testing.F) {
	g := serve(f, addressing("orders.shop.local"))
	crowd(g)
	for _, name := range []string{"crowd.apps.local", "orders.shop.local", `0-\120x.crowd.apps.local`, `a\.b.apps.local`, "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeSOA, dns.TypeANY, 65535} {
			packed, err := question(name, kind).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed)
		}
	}
	s := meshdns.New(meshdns.Config{Registry: g.registry, Now: time.Now})
	f.Fuzz(func(t *testing.T, packet []byte) {
		var q dns.Msg
		if q.Unpack(packet) != nil {
			return
		}
		for _, overUDP := range []bool{true, false} {
			m := s.Reply(&q, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, overUDP)
			if m == nil {
				continue
			}
			packed, err := m.Pack()
			if err != nil {
				t.Fatalf("%v: %v", err, m)
			}
			if overUDP && len(packed) > 1232 {
				t.Fatalf("%d bytes", len(packed))
			}
			var again dns.Msg
			if err := again.Unpack(packed); err != nil || again.Id != q.Id || !again.Response {
				t.Fatalf("%v: %v", err, m)
			}
		}
	})
}
