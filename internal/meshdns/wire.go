package meshdns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/cloudmap"
)

const (
	// mostUDP is the largest answer over UDP, whatever the client would take: it
	// passes every network in one piece.
	mostUDP = 1232
	// mostForwarded is how many queries wait for the other server at once.
	mostForwarded = 512
	forwardTime   = 3 * time.Second
	// mostConnections is how many TCP connections there are at once; each ends
	// when it idles, or when it is the oldest and there are too many.
	mostConnections = 256
	idleTime        = 10 * time.Second
)

// Config is what a Server needs. All but Forward and IPv6 is required.
type Config struct {
	Registry *cloudmap.Registry
	// Virtual says whether a virtual service has the name, in lower case, if that is
	// known yet; it is answered with IPv4 and IPv6, of which one may be missing. Nil
	// answers none.
	Virtual    func(name string) (has, known bool)
	IPv4, IPv6 netip.Addr
	// Forward is host:port of the server that is asked for names that are not
	// ours; empty refuses them.
	Forward string
	// Rate is how many queries a second a client may send; 0 is no bound.
	Rate float64
	Log  *slog.Logger
	Now  func() time.Time
	// Observe is told of each query its type and what became of it: a response
	// code, FORWARDED, VIRTUAL or LIMITED; nil is allowed. There are few of both.
	Observe func(kind, result string)
}

// Server answers queries.
type Server struct {
	Config
	resolver resolver
	limiter  limiter
	waiting  chan struct{} // of forwarded queries
}

// New makes a Server.
func New(c Config) *Server {
	if c.Virtual == nil {
		c.Virtual = func(string) (has, known bool) { return false, true }
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	return &Server{
		Config: c, waiting: make(chan struct{}, mostForwarded),
		resolver: resolver{c.Registry, c.Virtual, c.IPv4, c.IPv6},
		limiter:  limiter{rate: c.Rate, now: c.Now, clients: map[netip.Prefix]*bucket{}},
	}
}

// Serve answers on both until ctx ends, then closes them and returns its error.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	servers := []*dns.Server{
		{PacketConn: udp, Handler: s, UDPSize: dns.DefaultMsgSize, MsgAcceptFunc: accept},
		{
			Listener: &bounded{Listener: tcp, most: mostConnections}, Handler: s, MsgAcceptFunc: accept,
			ReadTimeout: idleTime, WriteTimeout: idleTime, IdleTimeout: func() time.Duration { return idleTime },
		},
	}
	ended := make(chan error, len(servers))
	for _, one := range servers {
		started := make(chan struct{})
		one.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- one.ActivateAndServe() }()
		select {
		case <-started:
		case err := <-ended:
			ended <- err
		}
	}
	var failed error
	running := len(servers)
	select {
	case <-ctx.Done():
	case failed = <-ended:
		running--
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), forwardTime)
	defer cancel()
	for _, one := range servers {
		_ = one.ShutdownContext(closing) // one that has ended says so
	}
	for range running {
		if err := <-ended; err != nil && failed == nil && ctx.Err() == nil {
			failed = err
		}
	}
	if failed != nil && ctx.Err() == nil {
		return fmt.Errorf("serve dns: %w", failed)
	}
	return ctx.Err()
}

// accept takes queries with one question; of all others it is said that they are
// malformed, not meant, or nothing at all to what is an answer itself.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response, opcode = 1 << 15, 0xf
	switch {
	case h.Bits&response != 0:
		return dns.MsgIgnore
	case int(h.Bits>>11)&opcode != dns.OpcodeQuery:
		return dns.MsgRejectNotImplemented
	case h.Qdcount != 1 || h.Ancount > 0 || h.Nscount > 0 || h.Arcount > 2:
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// ServeDNS satisfies dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	_, overUDP := w.LocalAddr().(*net.UDPAddr)
	m := s.reply(query, w.RemoteAddr(), overUDP)
	if m == nil {
		return
	}
	if err := w.WriteMsg(m); err != nil {
		s.Log.Debug("dns answer was not sent", "err", err)
	}
}

// reply is the answer to a query from there; nil is none.
func (s *Server) reply(query *dns.Msg, from net.Addr, overUDP bool) *dns.Msg {
	if len(query.Question) != 1 {
		return nil
	}
	q, size := query.Question[0], dns.MaxMsgSize
	m := new(dns.Msg).SetReply(query)
	m.Compress = true
	if overUDP {
		size = dns.MinMsgSize
	}
	kind := kindOf(q.Qtype)
	if opt := query.IsEdns0(); opt != nil {
		if overUDP {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), mostUDP)
		}
		m.SetEdns0(mostUDP, opt.Do())
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			s.Observe(kind, "BADVERS")
			return m
		}
	}
	if overUDP && !s.limiter.allow(from) {
		// Who is one that claims to be another gets no more than was sent; who is
		// not asks again over TCP.
		m.Truncated = true
		s.Observe(kind, "LIMITED")
		return m
	}
	if q.Qclass != dns.ClassINET || q.Qtype == dns.TypeANY || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		s.Observe(kind, string(foreign))
		return m
	}
	a := s.resolver.answer(plain(q.Name), kind)
	if a.outcome == foreign && s.Forward != "" && query.RecursionDesired {
		s.Observe(kind, "FORWARDED")
		return s.forward(query, m, size, overUDP)
	}
	s.fill(m, a)
	m.Truncate(size)
	result := a.counter
	if result == "" {
		result = string(a.outcome)
	}
	s.Observe(kind, result)
	return m
}

// fill writes an answer into a message.
func (s *Server) fill(m *dns.Msg, a answer) {
	q := m.Question[0]
	m.Authoritative = a.outcome == answered || a.outcome == missing
	m.RecursionAvailable = s.Forward != ""
	switch a.outcome {
	case missing:
		m.Rcode = dns.RcodeNameError
	case foreign:
		m.Rcode = dns.RcodeRefused
	case notYet:
		m.Rcode = dns.RcodeServerFailure
	}
	for _, r := range a.records {
		if rr := s.rr(q, r); rr != nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	for _, r := range a.extra {
		if rr := s.rr(q, r); rr != nil {
			// Before OPT or behind it: both are allowed.
			m.Extra = append(m.Extra, rr)
		}
	}
	if len(m.Answer) == 0 && a.zone != "" && m.Authoritative {
		// How long it is remembered that there is nothing.
		m.Ns = append(m.Ns, s.soa(dns.Fqdn(a.zone), a.soaTTL))
	}
}

// rr is a record as it is sent; nil when its names are none in DNS, as an
// instance's id may be.
func (s *Server) rr(q dns.Question, r record) dns.RR {
	name := q.Name // in the letters of the question, by which some clients tell answers
	if r.name != "" {
		name = dns.Fqdn(r.name)
	}
	target := dns.Fqdn(r.target)
	if _, ok := dns.IsDomainName(name); !ok {
		return nil
	}
	if _, ok := dns.IsDomainName(target); r.target != "" && !ok {
		return nil
	}
	header := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: r.ttl}
	}
	switch r.kind {
	case typeA:
		return &dns.A{Hdr: header(dns.TypeA), A: r.addr.AsSlice()}
	case typeAAAA:
		return &dns.AAAA{Hdr: header(dns.TypeAAAA), AAAA: r.addr.AsSlice()}
	case typeCNAME:
		return &dns.CNAME{Hdr: header(dns.TypeCNAME), Target: target}
	case typeSRV:
		return &dns.SRV{Hdr: header(dns.TypeSRV), Priority: 1, Weight: 1, Port: r.port, Target: target}
	case typeNS:
		return &dns.NS{Hdr: header(dns.TypeNS), Ns: target}
	case typeSOA:
		return s.soa(name, r.ttl)
	}
	return nil
}

// soa is the record of a zone; nothing in the zone is remembered to be missing for
// longer than ttl.
func (s *Server) soa(zone string, ttl uint32) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns." + strings.TrimPrefix(zone, "."), Mbox: "hostmaster." + strings.TrimPrefix(zone, "."),
		Serial: uint32(s.Now().Unix()), Refresh: 7200, Retry: 900, Expire: 1209600, Minttl: ttl,
	}
}

// forward asks the other server. m is the answer without anything.
func (s *Server) forward(query, m *dns.Msg, size int, overUDP bool) *dns.Msg {
	fail := func() *dns.Msg {
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return fail()
	}
	ask := new(dns.Msg)
	ask.SetQuestion(query.Question[0].Name, query.Question[0].Qtype)
	ask.SetEdns0(mostUDP, false)
	client := &dns.Client{Net: "udp", Timeout: forwardTime, UDPSize: mostUDP}
	if !overUDP {
		client.Net = "tcp"
	}
	got, _, err := client.Exchange(ask, s.Forward)
	if err != nil || len(got.Question) != 1 {
		s.Log.Debug("dns query was not answered by the other server", "err", err)
		return fail()
	}
	m.Rcode, m.Truncated, m.RecursionAvailable = got.Rcode, got.Truncated, got.RecursionAvailable
	m.Answer, m.Ns = got.Answer, got.Ns
	for _, rr := range got.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			m.Extra = append(m.Extra, rr)
		}
	}
	truncated := m.Truncated
	m.Truncate(size)
	m.Truncated = m.Truncated || truncated
	return m
}

// plain is a name in lower case, without the dot at its end and without escapes, but
// for that of a dot within a label.
func plain(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !strings.Contains(name, `\`) {
		return name
	}
	var out []byte
	for i := 0; i < len(name); i++ {
		if name[i] != '\\' || i+1 == len(name) {
			out = append(out, name[i])
			continue
		}
		i++
		if i+2 < len(name) && '0' <= name[i] && name[i] <= '9' {
			out = append(out, (name[i]-'0')*100+(name[i+1]-'0')*10+name[i+2]-'0')
			i += 2
			continue
		}
		if name[i] == '.' {
			out = append(out, '\\')
		}
		out = append(out, name[i])
	}
	return string(out)
}

// kindOf names a type, of few.
func kindOf(t uint16) string {
	switch t {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeSRV, dns.TypeNS, dns.TypeSOA:
		return dns.TypeToString[t]
	}
	return "other"
}
