package meshdns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/meshdns"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	ns := g.namespace("apps.local", 7)
	web := g.create(ns, "web", "MULTIVALUE", "A 5", "AAAA 6")
	g.register(web, "one", "AWS_INSTANCE_IPV4", "10.0.0.1", "AWS_INSTANCE_IPV6", "fd00::1")
	g.register(web, "two", "AWS_INSTANCE_IPV4", "10.0.0.2")
	srv := g.create(ns, "db.data", "MULTIVALUE", "SRV 0", "A 0")
	g.register(srv, "n1", "AWS_INSTANCE_IPV4", "10.1.0.1", "AWS_INSTANCE_PORT", "5432")
	g.register(srv, "10.2@x", "AWS_INSTANCE_IPV4", "10.1.0.2", "AWS_INSTANCE_PORT", "5433", "AWS_INSTANCE_IPV6", "fd00::2")
	proto := g.create(ns, "_http._tcp", "MULTIVALUE", "SRV 3")
	g.register(proto, "p", "AWS_INSTANCE_IPV4", "10.1.0.9", "AWS_INSTANCE_PORT", "80")
	cname := g.create(ns, "ext", "WEIGHTED", "CNAME 60")
	g.register(cname, "one", "AWS_INSTANCE_CNAME", "www.example.com")
	alias := g.create(ns, "lb", "WEIGHTED", "A 9")
	g.register(alias, "one", "AWS_ALIAS_DNS_NAME", "lb.example.com")
	empty := g.create(ns, "empty", "MULTIVALUE", "A 5")
	g.until("lb.apps.local", dns.TypeA, "NOERROR\nCNAME 9 lb.example.com.")
	for _, c := range []struct {
		name, of string
		kind     uint16
		want     string
	}{
		{"addresses, each with its record's time", "web.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.1\nA 5 10.0.0.2"},
		{"addresses of IPv6, of those that have one", "web.apps.local", dns.TypeAAAA, "NOERROR\nAAAA 6 fd00::1"},
		{"names know no case", "WEB.Apps.LOCAL", dns.TypeAAAA, "NOERROR\nAAAA 6 fd00::1"},
		{"a type that the service has not is no data", "web.apps.local", dns.TypeSRV, "NOERROR"},
		{"places", "db.data.apps.local", dns.TypeSRV, "NOERROR\nSRV 0 1 1 5432 n1.db.data.apps.local.\nSRV 0 1 1 5433 10.2\\@x.db.data.apps.local."},
		{"the address of a place", "n1.db.data.apps.local", dns.TypeA, "NOERROR\nA 0 10.1.0.1"},
		{"the address of a place with an odd id", "10.2@x.db.data.apps.local", dns.TypeAAAA, "NOERROR\nAAAA 0 fd00::2"},
		{"a place has no address of that family", "n1.db.data.apps.local", dns.TypeAAAA, "NOERROR"},
		{"a place that is not there", "n3.db.data.apps.local", dns.TypeA, "NXDOMAIN"},
		{"instances of services without places have no names", "one.web.apps.local", dns.TypeA, "NXDOMAIN"},
		{"a service named after its protocol", "_http._tcp.apps.local", dns.TypeSRV, "NOERROR\nSRV 3 1 1 80 p._http._tcp.apps.local."},
		{"a name below which there are others", "data.apps.local", dns.TypeA, "NOERROR"},
		{"another name for all types", "ext.apps.local", dns.TypeA, "NOERROR\nCNAME 60 www.example.com."},
		{"another name by its own type", "ext.apps.local", dns.TypeCNAME, "NOERROR\nCNAME 60 www.example.com."},
		{"an alias is another name", "lb.apps.local", dns.TypeA, "NOERROR\nCNAME 9 lb.example.com."},
		{"an alias is for the types of the service", "lb.apps.local", dns.TypeAAAA, "NOERROR"},
		{"a service without instances", "empty.apps.local", dns.TypeA, "NXDOMAIN"},
		{"no service", "none.apps.local", dns.TypeA, "NXDOMAIN"},
		{"the namespace itself", "apps.local", dns.TypeA, "NOERROR"},
		{"the namespace's server", "apps.local", dns.TypeNS, "NOERROR\nNS 7 ns.apps.local."},
		{"a name of somebody else", "example.com", dns.TypeA, "REFUSED"},
		{"a name above", "local", dns.TypeA, "REFUSED"},
		{"the root", ".", dns.TypeNS, "REFUSED"},
		{"a name that only ends alike", "webapps.local", dns.TypeA, "REFUSED"},
		{"all types at once", "web.apps.local", dns.TypeANY, "REFUSED"},
		{"the whole namespace", "apps.local", dns.TypeAXFR, "REFUSED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := g.asks(c.of, c.kind); got != c.want {
				t.Errorf("%s %s is\n%s\nwant\n%s", c.of, dns.TypeToString[c.kind], got, c.want)
			}
		})
	}
	t.Run("what is not there says for how long", func(t *testing.T) {
		for _, name := range []string{"none.apps.local", "data.apps.local"} {
			m := g.exchange(question(name, dns.TypeA))
			if len(m.Ns) != 1 {
				t.Fatalf("%s: %v", name, m)
			}
			soa, ok := m.Ns[0].(*dns.SOA)
			if !ok || soa.Hdr.Name != "apps.local." || soa.Minttl != 7 || soa.Hdr.Ttl != 7 || !m.Authoritative {
				t.Errorf("%s: %v", name, m)
			}
		}
	})
	t.Run("places come with their addresses", func(t *testing.T) {
		m := g.exchange(question("db.data.apps.local", dns.TypeSRV))
		var got []string
		for _, rr := range m.Extra {
			if rr.Header().Rrtype != dns.TypeOPT {
				got = append(got, rr.Header().Name+" "+strings.TrimPrefix(rr.String(), rr.Header().String()))
			}
		}
		slices.Sort(got)
		if want := []string{"10.2\\@x.db.data.apps.local. 10.1.0.2", "10.2\\@x.db.data.apps.local. fd00::2", "n1.db.data.apps.local. 10.1.0.1"}; !slices.Equal(got, want) {
			t.Errorf("beside the answer are %q", got)
		}
	})
	t.Run("answers are spelled as the question was", func(t *testing.T) {
		m := g.exchange(question("wEb.aPPs.lOcal", dns.TypeA))
		if m.Question[0].Name != "wEb.aPPs.lOcal." || m.Answer[0].Header().Name != "wEb.aPPs.lOcal." {
			t.Errorf("got %v", m)
		}
	})
	t.Run("changes are answered at once", func(t *testing.T) {
		g.register(empty, "one", "AWS_INSTANCE_IPV4", "10.0.0.9")
		g.until("empty.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.9")
		g.do("UpdateService", map[string]any{"Id": empty, "Service": map[string]any{"DnsConfig": map[string]any{"DnsRecords": []any{map[string]any{"Type": "A", "TTL": 1}}}}})
		g.until("empty.apps.local", dns.TypeA, "NOERROR\nA 1 10.0.0.9")
		g.do("DeregisterInstance", map[string]any{"ServiceId": empty, "InstanceId": "one"})
		g.until("empty.apps.local", dns.TypeA, "NXDOMAIN")
		g.do("DeleteService", map[string]any{"Id": empty})
		g.until("empty.apps.local", dns.TypeA, "NXDOMAIN")
	})
	t.Run("DISC-001 DISC-002 Go's own resolver", func(t *testing.T) {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			at := g.udp
			if strings.HasPrefix(network, "tcp") {
				at = g.tcp
			}
			return (&net.Dialer{}).DialContext(ctx, network, at)
		}}
		ctx := t.Context()
		got, err := r.LookupHost(ctx, "web.apps.local.")
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != "10.0.0.1 10.0.0.2 fd00::1" {
			t.Errorf("hosts are %v, %v", got, err)
		}
		_, places, err := r.LookupSRV(ctx, "http", "tcp", "apps.local.")
		if err != nil || len(places) != 1 || places[0].Port != 80 || places[0].Target != "p._http._tcp.apps.local." {
			t.Errorf("places are %v, %v", places, err)
		}
		if _, err := r.LookupHost(ctx, "none.apps.local."); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("what is not there is %v", err)
		}
	})
}

// What an answer has of many instances, by their health and the routing policy.
func TestChoice(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	ns := g.namespace("apps.local", 5)
	many, one := g.create(ns, "many", "MULTIVALUE", "A 0"), g.create(ns, "one", "WEIGHTED", "A 0")
	for _, s := range []string{many, one} {
		for i := range 12 {
			g.register(s, fmt.Sprint("i", i), "AWS_INSTANCE_IPV4", fmt.Sprintf("10.0.0.%d", i))
		}
	}
	// seen asks n times; how many records the answers had, and which in all.
	seen := func(name string, n int) (sizes, all map[string]bool) {
		sizes, all = map[string]bool{}, map[string]bool{}
		for range n {
			m := g.exchange(question(name, dns.TypeA))
			sizes[fmt.Sprint(len(m.Answer))] = true
			for _, rr := range m.Answer {
				all[rr.(*dns.A).A.String()] = true
			}
		}
		return sizes, all
	}
	g.register(g.create(ns, "last", "MULTIVALUE", "A 0"), "i", "AWS_INSTANCE_IPV4", "10.0.1.0")
	g.until("last.apps.local", dns.TypeA, "NOERROR\nA 0 10.0.1.0") // a write behind all of those
	t.Run("eight of many, and each at times", func(t *testing.T) {
		sizes, all := seen("many.apps.local", 60)
		if len(sizes) != 1 || !sizes["8"] || len(all) != 12 {
			t.Errorf("answers had %v records, %d instances in all", sizes, len(all))
		}
	})
	t.Run("one of many, and each at times", func(t *testing.T) {
		sizes, all := seen("one.apps.local", 300)
		if len(sizes) != 1 || !sizes["1"] || len(all) != 12 {
			t.Errorf("answers had %v records, %d instances in all", sizes, len(all))
		}
	})
	t.Run("DISC-013 the healthy ones, or all when none is", func(t *testing.T) {
		for i := range 10 {
			g.health(many, fmt.Sprint("i", i), "UNHEALTHY")
		}
		g.until("many.apps.local", dns.TypeA, "NOERROR\nA 0 10.0.0.10\nA 0 10.0.0.11")
		g.health(many, "i10", "UNHEALTHY")
		g.until("many.apps.local", dns.TypeA, "NOERROR\nA 0 10.0.0.11")
		g.health(many, "i11", "UNHEALTHY")
		testenv.Eventually(t, "none is healthy", func() bool { return len(g.exchange(question("many.apps.local", dns.TypeA)).Answer) == 8 })
		if _, all := seen("many.apps.local", 60); len(all) != 12 {
			t.Errorf("when none is healthy %d are answered, want 12", len(all))
		}
	})
}

func TestVirtualServices(t *testing.T) {
	t.Parallel()
	g := serve(t, addressing("orders.shop.local", "web.apps.local", "orders", "green.apps.local"))
	ns := g.namespace("apps.local", 7)
	web := g.create(ns, "web", "MULTIVALUE", "A 5")
	g.create(ns, "green", "MULTIVALUE", "A 5")
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.10.10.10") // it has no instances yet
	g.register(web, "one", "AWS_INSTANCE_IPV4", "10.0.0.1")
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.1")
	for _, c := range []struct {
		name, of string
		kind     uint16
		want     string
	}{
		{"VS-008 VS-009 a name has an address that is not loopback", "orders.shop.local", dns.TypeA, "NOERROR\nA 5 10.10.10.10"},
		{"VS-009 in any case", "Orders.Shop.local", dns.TypeA, "NOERROR\nA 5 10.10.10.10"},
		{"VS-009 a short name", "orders", dns.TypeA, "NOERROR\nA 5 10.10.10.10"},
		{"VS-009 no data of the other family", "orders.shop.local", dns.TypeAAAA, "NOERROR"},
		{"VS-009 in a namespace, without instances", "green.apps.local", dns.TypeA, "NOERROR\nA 5 10.10.10.10"},
		{"TRBL-006 a name of no virtual service", "stock.shop.local", dns.TypeA, "REFUSED"},
		{"a name of no virtual service in a namespace", "red.apps.local", dns.TypeA, "NXDOMAIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := g.asks(c.of, c.kind); got != c.want {
				t.Errorf("%s is\n%s\nwant\n%s", c.of, got, c.want)
			}
		})
	}
	six := serve(t, func(c *meshdns.Config) {
		addressing("orders.shop.local")(c)
		c.IPv4, c.IPv6 = netip.Addr{}, netip.MustParseAddr("fd00::10")
	})
	for kind, want := range map[uint16]string{dns.TypeAAAA: "NOERROR\nAAAA 5 fd00::10", dns.TypeA: "NOERROR", dns.TypeSRV: "NOERROR"} {
		if got := six.asks("orders.shop.local", kind); got != want {
			t.Errorf("with an address of IPv6 alone, %s is %s, want %s", dns.TypeToString[kind], got, want)
		}
	}
	if n := g.count("A VIRTUAL"); n < 4 {
		t.Errorf("%d are counted", n)
	}
}

// Of several accounts' namespaces of one name the first is served, until it is gone.
func TestContestedNamespaces(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	second := g.as(other)
	first := g.namespace("apps.local", 5)
	s := g.create(first, "web", "MULTIVALUE", "A 5")
	g.register(s, "one", "AWS_INSTANCE_IPV4", "10.0.0.1")
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.1")
	theirs := second.create(second.namespace("Apps.local", 5), "web", "MULTIVALUE", "A 5")
	second.register(theirs, "one", "AWS_INSTANCE_IPV4", "10.9.9.9")
	g.register(s, "two", "AWS_INSTANCE_IPV4", "10.0.0.2")
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.1\nA 5 10.0.0.2")
	if n := g.registry.Contested(); n != 1 {
		t.Errorf("%d namespaces are contested, want 1", n)
	}
	if said := g.log.String(); strings.Count(said, "several accounts have a private namespace of one name") != 1 || !strings.Contains(said, "first="+account) {
		t.Errorf("the log:\n%s", said)
	}
	for _, id := range []string{"one", "two"} {
		g.do("DeregisterInstance", map[string]any{"ServiceId": s, "InstanceId": id})
	}
	g.do("DeleteService", map[string]any{"Id": s})
	g.do("DeleteNamespace", map[string]any{"Id": first})
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.9.9.9")
	if n := g.registry.Contested(); n != 0 {
		t.Errorf("%d namespaces are contested, want none", n)
	}
}

// Of namespaces within each other the innermost answers.
func TestNamespaceWithinANamespace(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	outer, inner := g.namespace("local", 5), g.namespace("apps.local", 9)
	g.register(g.create(outer, "web.apps", "MULTIVALUE", "A 5"), "one", "AWS_INSTANCE_IPV4", "10.0.0.1")
	g.register(g.create(outer, "web", "MULTIVALUE", "A 5"), "one", "AWS_INSTANCE_IPV4", "10.0.0.2")
	g.until("web.local", dns.TypeA, "NOERROR\nA 5 10.0.0.2")
	if got := g.asks("web.apps.local", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("the outer answers for the inner: %s", got)
	}
	g.register(g.create(inner, "web", "MULTIVALUE", "A 5"), "one", "AWS_INSTANCE_IPV4", "10.0.0.3")
	g.until("web.apps.local", dns.TypeA, "NOERROR\nA 5 10.0.0.3")
}

// Before everything was read once, nothing is said to be missing.
func TestNotYetRead(t *testing.T) {
	t.Parallel()
	s := meshdns.New(meshdns.Config{Registry: cloudmap.NewRegistry(storetest.New(t), nil), Now: time.Now})
	m := s.Reply(question("web.apps.local", dns.TypeA), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, true)
	if m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", m)
	}
}

// BenchmarkReply is one answer over UDP, of a service among a thousand.
func BenchmarkReply(b *testing.B) {
	g := serve(b, addressing("orders.shop.local"))
	ns := g.namespace("apps.local", 5)
	const services = 1000
	for i := range services {
		g.create(ns, fmt.Sprint("s", i), "MULTIVALUE", "A 5")
	}
	s := g.create(ns, "web", "MULTIVALUE", "A 5")
	for i := range 8 {
		g.register(s, fmt.Sprint("i", i), "AWS_INSTANCE_IPV4", fmt.Sprintf("10.0.0.%d", i))
	}
	for len(g.exchange(question("web.apps.local", dns.TypeA)).Answer) < 8 {
	}
	server := meshdns.New(meshdns.Config{Registry: g.registry, Rate: 1e9, Now: time.Now})
	from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	for _, name := range []string{"web.apps.local", "none.apps.local"} {
		b.Run(name, func(b *testing.B) {
			q := question(name, dns.TypeA)
			b.ReportAllocs()
			for b.Loop() {
				if m := server.Reply(q, from, true); m == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
