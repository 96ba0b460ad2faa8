package main

import (
	"encoding/json"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"
	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// registrar registers as deployments do, with AWS's own client.
type registrar struct {
	t      *testing.T
	client *servicediscovery.Client
}

func newRegistrar(t *testing.T, p *plane) *registrar {
	t.Helper()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return &registrar{t, servicediscovery.New(servicediscovery.Options{
		Region: facts.Region, BaseEndpoint: &facts.APIEndpoint, Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})}
}

func (r *registrar) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// service makes a service in the private namespace apps, which it makes at first.
func (r *registrar) service(name string) string {
	r.t.Helper()
	find := func() string {
		all, err := r.client.ListNamespaces(r.t.Context(), &servicediscovery.ListNamespacesInput{})
		r.check(err)
		for _, n := range all.Namespaces {
			return *n.Id
		}
		return ""
	}
	id := find()
	if id == "" {
		_, err := r.client.CreatePrivateDnsNamespace(r.t.Context(), &servicediscovery.CreatePrivateDnsNamespaceInput{Name: aws.String("apps"), Vpc: aws.String("none")})
		r.check(err)
		id = find()
	}
	made, err := r.client.CreateService(r.t.Context(), &servicediscovery.CreateServiceInput{
		Name: &name, NamespaceId: &id, HealthCheckCustomConfig: &types.HealthCheckCustomConfig{},
		DnsConfig: &types.DnsConfig{DnsRecords: []types.DnsRecord{{Type: types.RecordTypeA, TTL: aws.Int64(1)}}},
	})
	r.check(err)
	return *made.Service.Id
}

func (r *registrar) register(service, id, address string) {
	r.t.Helper()
	r.registerAt(service, id, address, "9080")
}

func (r *registrar) registerAt(service, id, address, port string) {
	r.t.Helper()
	_, err := r.client.RegisterInstance(r.t.Context(), &servicediscovery.RegisterInstanceInput{
		ServiceId: &service, InstanceId: &id, Attributes: map[string]string{"AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": port},
	})
	r.check(err)
}

// What is registered with the control plane itself reaches proxies, and is there
// after a restart; what is not registered is not known, which the ledger says; and
// names are answered where the settings say so.
func TestOwnRegistry(t *testing.T) {
	t.Parallel()
	dir, arguments := t.TempDir(), []string{"--auth", "off", "--dns-listen", "127.0.0.1:0", "--dns-virtual-services", "on"}
	p := start(t, dir, arguments...)
	cloudMapMesh(t, p, "red", "late")
	r := newRegistrar(t, p)
	red := r.service("red")
	r.register(red, "one", "10.0.0.1")
	t.Run("DISC-006 DISC-010 DISC-005 instances reach a proxy without a role or a poll", func(t *testing.T) {
		proxy := front(t, p)
		proxy.Wait(t, "the first instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080" })
		r.register(red, "two", "10.0.0.2")
		proxy.Wait(t, "the second instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080 10.0.0.2:9080" })
		_, err := r.client.UpdateInstanceCustomHealthStatus(t.Context(), &servicediscovery.UpdateInstanceCustomHealthStatusInput{
			ServiceId: &red, InstanceId: aws.String("two"), Status: types.CustomHealthStatusUnhealthy,
		})
		r.check(err)
		proxy.Wait(t, "no unhealthy instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080" })
		proxy.Wait(t, "an empty set for what is not registered", func() bool { return instancesOf(t, proxy, "late") == "" })
		eventually(t, "the ledger names it", func() bool {
			var out api.ListProxiesOutput
			if err := p.call(t.Context(), "ListProxies", map[string]any{}, &out); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(out)
			return err == nil && strings.Contains(string(text), "Endpoints of cds_egress_shop_late_http_8080 are not known")
		})
		if said := p.said(t); !strings.Contains(said, "a service of which proxies want the endpoints is not registered") {
			t.Errorf("the log:\n%s", said)
		}
		r.register(r.service("late"), "one", "10.0.0.9")
		proxy.Wait(t, "the instance, when it is registered", func() bool { return instancesOf(t, proxy, "late") == "10.0.0.9:9080" })
	})
	t.Run("VS-009 DISC-001 names of instances and of virtual services are answered", func(t *testing.T) {
		at := answersAt(t, p)
		for name, want := range map[string]net.IP{"red.apps.": net.IPv4(10, 0, 0, 1), "red.local.": net.IPv4(10, 10, 10, 10), "late.local.": net.IPv4(10, 10, 10, 10)} {
			eventually(t, name+" is answered", func() bool {
				m := asked(t, name, at)
				a, ok := append(m.Answer, &dns.NULL{})[0].(*dns.A)
				return ok && len(m.Answer) == 1 && a.A.Equal(want)
			})
		}
		if m := asked(t, "example.com.", at); m.Rcode != dns.RcodeRefused {
			t.Errorf("another name is %v", m)
		}
		if _, text := p.get(t, "/metrics"); !strings.Contains(text, `evermesh_dns_queries_total{result="VIRTUAL",type="A"} 2`) {
			t.Errorf("the queries are not counted:\n%s", text)
		}
	})
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	again := start(t, dir, arguments...)
	proxy := front(t, again)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("red has %q, late has %q\n%s", instancesOf(t, proxy, "red"), instancesOf(t, proxy, "late"), again.said(t))
		}
	})
	proxy.Wait(t, "what was registered before", func() bool {
		return instancesOf(t, proxy, "red") == "10.0.0.1:9080" && instancesOf(t, proxy, "late") == "10.0.0.9:9080"
	})
}

// answersAt is where a control plane answers names.
func answersAt(t *testing.T, p *plane) string {
	t.Helper()
	at := regexp.MustCompile(`names are answered" dns=(\S+)`).FindStringSubmatch(p.said(t))
	if at == nil {
		t.Fatalf("the log does not say where:\n%s", p.said(t))
	}
	return at[1]
}

// asked asks for a name's addresses, with as much time as a busy machine may take.
func asked(t *testing.T, name, at string) *dns.Msg {
	t.Helper()
	m, _, err := (&dns.Client{Timeout: within}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// While etcd is away names are answered as before, and nothing that is registered is
// taken from proxies; what was registered at another replica comes when etcd does.
func TestOwnRegistryWithoutEtcd(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	replica := func() *plane {
		return start(t, t.TempDir(), "--auth", "off", "--dns-listen", "127.0.0.1:0", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	}
	first, second := replica(), replica()
	cloudMapMesh(t, first, "red")
	r := newRegistrar(t, first)
	red := r.service("red")
	r.register(red, "one", "10.0.0.1")
	has := func(want ...string) bool {
		m := asked(t, "red.apps.", answersAt(t, second))
		got := map[string]bool{}
		for _, rr := range m.Answer {
			got[rr.(*dns.A).A.String()] = true
		}
		for _, w := range want {
			if !got[w] {
				return false
			}
		}
		return len(got) == len(want)
	}
	eventually(t, "the other replica answers", func() bool { return has("10.0.0.1") })
	proxy := front(t, second)
	proxy.Wait(t, "the instance at the other replica", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080" })
	e.stop()
	eventually(t, "/readyz says that the store is away", func() bool {
		status, _ := second.get(t, "/readyz")
		return status == http.StatusServiceUnavailable
	})
	if !has("10.0.0.1") || instancesOf(t, proxy, "red") != "10.0.0.1:9080" {
		t.Errorf("without etcd the proxy has %q, and the name is not as before", instancesOf(t, proxy, "red"))
	}
	e.start(t)
	eventually(t, "a registration succeeds again", func() bool {
		_, err := r.client.RegisterInstance(t.Context(), &servicediscovery.RegisterInstanceInput{
			ServiceId: &red, InstanceId: aws.String("two"), Attributes: map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.2", "AWS_INSTANCE_PORT": "9080"},
		})
		return err == nil
	})
	eventually(t, "the other replica answers it", func() bool { return has("10.0.0.1", "10.0.0.2") })
	proxy.Wait(t, "the second instance", func() bool { return instancesOf(t, proxy, "red") == "10.0.0.1:9080 10.0.0.2:9080" })
}
