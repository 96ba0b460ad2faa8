package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/meshdns"
)

// dnsPort is where name servers are, where an address does not say.
const dnsPort = "53"

// withPort is an address with the port of name servers where it has none.
func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil || address == "" {
		return address
	}
	return net.JoinHostPort(address, dnsPort)
}

// virtualAddresses are what virtual services are answered with.
func virtualAddresses(texts []string) (v4, v6 netip.Addr, err error) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			return v4, v6, usagef("--dns-virtual-services-address %q: want an IPv4 or IPv6 address", text)
		case a.IsLoopback() || a.IsUnspecified() || a.IsMulticast():
			return v4, v6, usagef("--dns-virtual-services-address %s: proxies do not catch what goes there; want one that is not loopback, such as 10.10.10.10", text)
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		default:
			return v4, v6, usagef("--dns-virtual-services-address %s: want one address of each family at most", text)
		}
	}
	return v4, v6, nil
}

func (c config) checkDNS() error {
	for _, at := range [][2]string{{"--dns-listen", c.DNSListen}, {"--dns-forward", withPort(c.DNSForward)}} {
		if at[1] == "" {
			continue
		}
		host, port, err := net.SplitHostPort(at[1])
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 && at[0] != "--dns-listen" || net.ParseIP(host) == nil && host != "" && host != "localhost" {
			return usagef("%s %q: want an address and a port, such as 10.0.0.2:53", at[0], at[1])
		}
	}
	if c.DNSListen == "" && (c.DNSForward != "" || c.DNSVirtualServices == "on") {
		return usagef("--dns-forward and --dns-virtual-services are for --dns-listen: give it, or remove them")
	}
	if c.DNSForward != "" && withPort(c.DNSForward) == c.DNSListen {
		return usagef("--dns-forward %s is --dns-listen: a name that is not here would be asked for again and again", c.DNSForward)
	}
	if !(c.DNSRate >= 0) { // also what is not a number
		return usagef("--dns-rate %v: want queries per second, or 0 for no limit", c.DNSRate)
	}
	_, _, err := virtualAddresses(c.DNSVirtualServicesAddress)
	return err
}

// anyPortTries is how often a free port is looked for where any will do: the one that is free for TCP may be taken for
// UDP.
const anyPortTries = 10

// listenDNS opens both of the name server's ports, which are one number.
func (d *daemon) listenDNS(l *listeners) error {
	at := d.config.DNSListen
	if at == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return fmt.Errorf("--dns-listen: %w", err)
	}
	for try := 1; ; try++ {
		if l.dnsTCP, err = listen("--dns-listen", at); err != nil {
			return err
		}
		_, got, err := net.SplitHostPort(l.dnsTCP.Addr().String())
		if err == nil {
			l.dnsUDP, err = net.ListenPacket("udp", net.JoinHostPort(host, got))
		}
		if err == nil {
			return nil
		}
		err = errors.Join(fmt.Errorf("--dns-listen: %w", err), l.dnsTCP.Close())
		if port != "0" || try == anyPortTries {
			return err
		}
	}
}

// serveDNS answers names until ctx ends.
func (d *daemon) serveDNS(ctx context.Context, l *listeners) error {
	if l.dnsUDP == nil {
		return nil
	}
	c := meshdns.Config{
		Registry: d.registry, Forward: withPort(d.config.DNSForward), Rate: d.config.DNSRate, Log: d.log, Now: time.Now,
		Observe: d.metrics.dns(d.registry.Contested),
	}
	if d.config.DNSVirtualServices == "on" {
		var err error
		if c.IPv4, c.IPv6, err = virtualAddresses(d.config.DNSVirtualServicesAddress); err != nil {
			return err
		}
		c.Virtual = meshdns.NewNames(func() *mesh.Snapshot { return d.loop.Snapshot() }, time.Now).Has
	}
	d.log.Info("names are answered", "dns", l.dnsUDP.LocalAddr().String())
	return meshdns.New(c).Serve(ctx, l.dnsUDP, l.dnsTCP)
}
