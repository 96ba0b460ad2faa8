//go:build linux

package ground

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// answerTTL is how many seconds an answer may be kept; names change while tests run.
const answerTTL = 1

// DNS is the ground's name server, on port 53 of the bridge's address, UDP and TCP. It knows the names that Set gave
// it and answers NXDOMAIN to all others. Names are compared without case and without a final dot.
type DNS struct {
	addr    netip.AddrPort
	servers []*dns.Server
	running sync.WaitGroup
	closing chan struct{}

	mu    sync.Mutex
	names map[string]*nameRecord
	zones map[string]netip.AddrPort
}

type nameRecord struct {
	addrs   []netip.Addr
	known   bool // Set, and not removed since
	delay   time.Duration
	silent  time.Time      // no answers until then
	queries map[uint16]int // by type
}

func serveDNS(addr netip.Addr) (*DNS, error) {
	d := &DNS{addr: netip.AddrPortFrom(addr, 53), names: map[string]*nameRecord{}, zones: map[string]netip.AddrPort{}, closing: make(chan struct{})}
	packets, err := net.ListenPacket("udp", d.addr.String())
	if err != nil {
		return nil, err
	}
	streams, err := net.Listen("tcp", d.addr.String())
	if err != nil {
		return nil, errors.Join(err, packets.Close())
	}
	d.servers = []*dns.Server{{PacketConn: packets, Handler: d}, {Listener: streams, Handler: d}}
	for _, s := range d.servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		// The error is that of a closed listener, after Shutdown.
		d.running.Go(func() { _ = s.ActivateAndServe() })
		<-started
	}
	return d, nil
}

// Addr is where the server listens.
func (d *DNS) Addr() netip.AddrPort { return d.addr }

// Set gives name these addresses, in place of those it had. Without addresses the name exists and has none.
func (d *DNS) Set(name string, addrs ...netip.Addr) {
	d.edit(name, func(r *nameRecord) { r.addrs, r.known = addrs, true })
}

// Remove makes the server answer NXDOMAIN for name.
func (d *DNS) Remove(name string) {
	d.edit(name, func(r *nameRecord) { r.addrs, r.known = nil, false })
}

// Forward has another name server answer for the names in a zone, such as apps.local, that were not Set.
func (d *DNS) Forward(zone string, to netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zones["."+strings.ToLower(zone)] = to
}

// elsewhere is who answers for a name that is not known here.
func (d *DNS) elsewhere(name string) (to netip.AddrPort, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = "." + strings.ToLower(strings.TrimSuffix(name, "."))
	for zone, to := range d.zones {
		if strings.HasSuffix(name, zone) {
			return to, true
		}
	}
	return to, false
}

// Silence leaves every query for name unanswered for the time to come; 0 ends it.
func (d *DNS) Silence(name string, forTime time.Duration) {
	d.edit(name, func(r *nameRecord) { r.silent = time.Now().Add(forTime) })
}

// Delay holds every answer for name back by so much; 0 ends it.
func (d *DNS) Delay(name string, by time.Duration) {
	d.edit(name, func(r *nameRecord) { r.delay = by })
}

// Queries counts the queries for name so far, answered or not.
func (d *DNS) Queries(name string) (n int) {
	d.edit(name, func(r *nameRecord) {
		for _, of := range r.queries {
			n += of
		}
	})
	return n
}

// QueriesOf is Queries of one type of record, such as [dns.TypeA].
func (d *DNS) QueriesOf(name string, qtype uint16) (n int) {
	d.edit(name, func(r *nameRecord) { n = r.queries[qtype] })
	return n
}

func (d *DNS) edit(name string, fn func(*nameRecord)) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		d.names[name] = &nameRecord{queries: map[uint16]int{}}
	}
	fn(d.names[name])
}

// ServeDNS answers one query; the library calls it in a goroutine of its own.
func (d *DNS) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative, reply.RecursionAvailable = true, true
	if len(query.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(reply) // who does not listen any more asks again
		return
	}
	var r nameRecord
	question := query.Question[0]
	d.edit(question.Name, func(known *nameRecord) { known.queries[question.Qtype]++; r = *known })
	if time.Now().Before(r.silent) {
		return
	}
	if r.delay > 0 {
		select {
		case <-time.After(r.delay):
		case <-d.closing:
			return
		}
	}
	if to, ok := d.elsewhere(question.Name); ok && !r.known {
		if got, err := dns.Exchange(query, to.String()); err == nil {
			_ = w.WriteMsg(got)
		}
		return // who is not answered asks again
	}
	if !r.known {
		reply.Rcode = dns.RcodeNameError
	}
	for _, a := range r.addrs {
		header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: answerTTL}
		switch {
		case question.Qtype == dns.TypeA && a.Is4():
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header, AAAA: a.AsSlice()})
		}
	}
	_ = w.WriteMsg(reply)
}

// lookup asks this server from inside the program, past what the program's resolver remembers of resolv.conf. On a
// bare ground, which has no server, it asks the machine's.
func (d *DNS) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{ip}, nil
	}
	if d == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, d.addr.String())
	}}
	return r.LookupNetIP(ctx, "ip", name)
}

func (d *DNS) close() error {
	close(d.closing)
	var errs []error
	for _, s := range d.servers {
		if err := s.Shutdown(); err != nil {
			errs = append(errs, fmt.Errorf("stop name server: %w", err))
		}
	}
	d.running.Wait()
	return errors.Join(errs...)
}
