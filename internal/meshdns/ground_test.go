package meshdns_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/meshdns"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const (
	account = "111111111111"
	other   = "222222222222"
)

// ground is a registry and a server that answers from it.
type ground struct {
	t        testing.TB
	store    *store.Store
	registry *cloudmap.Registry
	service  *service.Service
	account  string
	udp, tcp string
	log      *testenv.Output

	mu      sync.Mutex
	results map[string]int
}

// serve runs a server until the test ends; edit has the last word on its settings.
func serve(t testing.TB, edit func(*meshdns.Config)) *ground {
	t.Helper()
	g := &ground{t: t, store: storetest.New(t), account: account, log: &testenv.Output{}, results: map[string]int{}}
	log := slog.New(slog.NewTextHandler(g.log, nil))
	var err error
	if g.service, err = cloudmap.New(cloudmap.Config{Store: g.store, Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Now: time.Now}).Service(); err != nil {
		t.Fatal(err)
	}
	g.registry = cloudmap.NewRegistry(g.store, log)
	c := meshdns.Config{Registry: g.registry, Log: log, Now: time.Now, Observe: func(kind, result string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.results[kind+" "+result]++
	}}
	if edit != nil {
		edit(&c)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.udp, g.tcp = udp.LocalAddr().String(), tcp.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.registry.Run(ctx) })
	running.Go(func() {
		if err := meshdns.New(c).Serve(ctx, udp, tcp); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	testenv.Eventually(t, "the registry is read", g.registry.Loaded)
	return g
}

// as is the ground for another account.
func (g *ground) as(account string) *ground {
	return &ground{t: g.t, store: g.store, registry: g.registry, service: g.service, account: account, udp: g.udp, tcp: g.tcp, log: g.log}
}

func (g *ground) count(what string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.results[what]
}

// do does an operation of Cloud Map that must succeed.
func (g *ground) do(operation string, in map[string]any) any {
	g.t.Helper()
	out, err := g.service.Operations[operation].Run(context.Background(), &service.Call{
		Service: g.service, Operation: operation, Input: in, Authorizer: auth.Roots{}, Principal: auth.Principal{Account: g.account},
	})
	if err != nil {
		g.t.Fatalf("%s: %v", operation, err)
	}
	return out
}

// namespace makes a private namespace and returns its id.
func (g *ground) namespace(name string, soa int) string {
	g.t.Helper()
	g.do("CreatePrivateDnsNamespace", map[string]any{"Name": name, "Vpc": "vpc-1", "Properties": map[string]any{
		"DnsProperties": map[string]any{"SOA": map[string]any{"TTL": soa}},
	}})
	all := g.do("ListNamespaces", map[string]any{"Filters": []any{map[string]any{"Name": "NAME", "Values": []any{name}}}})
	return *all.(*cloudmapapi.ListNamespacesResponse).Namespaces[0].ID
}

// create makes a service whose instances make the records, such as "A 5".
func (g *ground) create(namespace, name, routing string, records ...string) string {
	g.t.Helper()
	var list []any
	for _, r := range records {
		var kind string
		var ttl int
		if _, err := fmt.Sscan(r, &kind, &ttl); err != nil {
			g.t.Fatal(err)
		}
		list = append(list, map[string]any{"Type": kind, "TTL": ttl})
	}
	made := g.do("CreateService", map[string]any{
		"Name": name, "NamespaceId": namespace, "HealthCheckCustomConfig": map[string]any{},
		"DnsConfig": map[string]any{"RoutingPolicy": routing, "DnsRecords": list},
	})
	return *made.(*cloudmapapi.CreateServiceResponse).Service.ID
}

// register makes an instance; attributes are pairs.
func (g *ground) register(service, id string, attributes ...string) {
	g.t.Helper()
	all := map[string]any{}
	for i := 0; i < len(attributes); i += 2 {
		all[attributes[i]] = attributes[i+1]
	}
	g.do("RegisterInstance", map[string]any{"ServiceId": service, "InstanceId": id, "Attributes": all})
}

func (g *ground) health(service, id, status string) {
	g.t.Helper()
	g.do("UpdateInstanceCustomHealthStatus", map[string]any{"ServiceId": service, "InstanceId": id, "Status": status})
}

// question is a query for a name's records of a type.
func question(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	m.SetEdns0(1232, false)
	return m
}

// exchange sends a query over UDP.
func (g *ground) exchange(m *dns.Msg) *dns.Msg {
	g.t.Helper()
	out, _, err := (&dns.Client{Timeout: testenv.Patience, UDPSize: 4096}).Exchange(m, g.udp)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// asks is what a name has of a type: the code, and the records in order, each as
// TYPE TTL VALUE.
func (g *ground) asks(name string, kind uint16) string {
	g.t.Helper()
	return said(g.exchange(question(name, kind)))
}

func said(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		h := rr.Header()
		out = append(out, fmt.Sprint(dns.TypeToString[h.Rrtype], " ", h.Ttl, " ", strings.TrimPrefix(rr.String(), h.String())))
	}
	slices.Sort(out)
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, out...), "\n")
}

// until asks until that is the answer.
func (g *ground) until(name string, kind uint16, want string) {
	g.t.Helper()
	last := ""
	testenv.Eventually(g.t, fmt.Sprintf("%s has %q", name, want), func() bool {
		last = g.asks(name, kind)
		return last == want
	})
}

// addressing gives virtual services addresses.
func addressing(names ...string) func(*meshdns.Config) {
	return func(c *meshdns.Config) {
		c.Virtual = func(name string) (has, known bool) { return slices.Contains(names, name), true }
		c.IPv4 = netip.MustParseAddr("10.10.10.10")
	}
}
