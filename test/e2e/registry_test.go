//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// registry is the Cloud Map of the evermeshd that all tests share, through AWS's own client.
type registry struct {
	t         *testing.T
	client    *servicediscovery.Client
	namespace string
}

// newRegistry makes a private namespace of that name.
func newRegistry(t *testing.T, c *stage.Control, name string) *registry {
	t.Helper()
	facts, err := client.ReadFacts(c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{t: t, client: servicediscovery.New(servicediscovery.Options{
		Region: c.Region, BaseEndpoint: &facts.APIEndpoint,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c.Key, nil }),
	})}
	made, err := r.client.CreatePrivateDnsNamespace(t.Context(), &servicediscovery.CreatePrivateDnsNamespaceInput{
		Name: &name, Vpc: aws.String("vpc-ground"),
		Properties: &types.PrivateDnsNamespaceProperties{DnsProperties: &types.PrivateDnsPropertiesMutable{SOA: &types.SOA{TTL: aws.Int64(1)}}},
	})
	r.check(err)
	done, err := r.client.GetOperation(t.Context(), &servicediscovery.GetOperationInput{OperationId: made.OperationId})
	r.check(err)
	r.namespace = done.Operation.Targets["NAMESPACE"]
	return r
}

func (r *registry) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// service makes a service whose instances have A records.
func (r *registry) service(name string) string {
	r.t.Helper()
	made, err := r.client.CreateService(r.t.Context(), &servicediscovery.CreateServiceInput{
		Name: &name, NamespaceId: &r.namespace, HealthCheckCustomConfig: &types.HealthCheckCustomConfig{},
		DnsConfig: &types.DnsConfig{DnsRecords: []types.DnsRecord{{Type: types.RecordTypeA, TTL: aws.Int64(1)}}},
	})
	r.check(err)
	return *made.Service.Id
}

func (r *registry) register(service string, h *ground.Host, more ...string) {
	r.t.Helper()
	attributes := map[string]string{"AWS_INSTANCE_IPV4": h.Addr().String(), "AWS_INSTANCE_PORT": fmt.Sprint(appPort)}
	for i := 0; i < len(more); i += 2 {
		attributes[more[i]] = more[i+1]
	}
	_, err := r.client.RegisterInstance(r.t.Context(), &servicediscovery.RegisterInstanceInput{ServiceId: &service, InstanceId: aws.String(h.Name()), Attributes: attributes})
	r.check(err)
}

func (r *registry) deregister(service string, h *ground.Host) {
	r.t.Helper()
	_, err := r.client.DeregisterInstance(r.t.Context(), &servicediscovery.DeregisterInstanceInput{ServiceId: &service, InstanceId: aws.String(h.Name())})
	r.check(err)
}

func (r *registry) health(service string, h *ground.Host, status types.CustomHealthStatus) {
	r.t.Helper()
	_, err := r.client.UpdateInstanceCustomHealthStatus(r.t.Context(), &servicediscovery.UpdateInstanceCustomHealthStatusInput{
		ServiceId: &service, InstanceId: aws.String(h.Name()), Status: status,
	})
	r.check(err)
}

// TestRegistry registers in the control plane's own Cloud Map, and looks at what a real Envoy has and whom it reaches.
func TestRegistry(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "registry", "DROP_ALL")
	r := newRegistry(t, m.control, "registry.cloud")
	one, two := m.program("one"), m.program("two")
	web := r.service("web")
	found := func(attributes string) string {
		return fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}],
			"serviceDiscovery": {"awsCloudMap": {"namespaceName": "registry.cloud", "serviceName": "web"%s}}}`, appPort, attributes)
	}
	m.create("VirtualNode", "web", found(""))
	m.create("VirtualNode", "blue", found(`, "attributes": [{"key": "color", "value": "blue"}]`))
	for _, name := range []string{"web", "blue"} {
		m.DNS().Set(m.hostname(name), nobody)
		m.create("VirtualService", m.hostname(name), fmt.Sprintf(`{"provider": {"virtualNode": {"virtualNodeName": %q}}}`, name))
	}
	m.create("VirtualNode", "client", callerSpec(m.hostname("web"), m.hostname("blue")))
	host := m.host("client")
	envoy := m.sidecar(host, stage.SidecarOptions{Resource: "client"})
	url := func(name string) string { return fmt.Sprintf("http://%s:%d/", m.hostname(name), appPort) }

	// has waits until Envoy's cluster of the node has these hosts and no others, and says how long that took.
	has := func(t *testing.T, node string, hosts ...*ground.Host) time.Duration {
		t.Helper()
		began := time.Now()
		ctx, cancel := m.context()
		defer cancel()
		if err := stage.Until(ctx, fmt.Sprintf("Envoy has %d hosts of %s", len(hosts), node), func(ctx context.Context) bool {
			text, err := envoy.Admin(ctx, "/clusters")
			if err != nil {
				return false
			}
			n := 0
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "cds_egress_registry_"+node+"_") && strings.Contains(line, "::cx_active::") {
					n++
				}
			}
			for _, h := range hosts {
				if !strings.Contains(text, fmt.Sprintf("cds_egress_registry_%s_http_%d::%s:%d::", node, appPort, h.Addr(), appPort)) {
					return false
				}
			}
			return n == len(hosts)
		}); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	t.Run("DISC-005 DISC-010 what is registered is reached at once", func(t *testing.T) {
		has(t, "web")
		if got := reach(t, host, url("web"), ""); got != "503" {
			t.Errorf("before anything is registered: %s, want 503", got)
		}
		var took []time.Duration
		for range 5 {
			r.register(web, one)
			took = append(took, has(t, "web", one))
			if got := reach(t, host, url("web"), ""); got != "one" {
				t.Fatalf("%s, want one", got)
			}
			r.deregister(web, one)
			took = append(took, has(t, "web"))
		}
		slices.Sort(took)
		t.Logf("from the call's answer until Envoy has it, of 10: %v", took)
		if usual := took[len(took)/2]; usual > time.Second { // a busy machine may be late now and then
			t.Errorf("Envoy has it after %v, want well under a second", usual)
		}
	})
	t.Run("DISC-005 DISC-011 attributes select, and others pass through", func(t *testing.T) {
		r.register(web, one, "color", "red", "k8s.io/pod", "web-1", "ECS_CLUSTER_NAME", "c")
		r.register(web, two, "color", "blue", "AWS_INIT_HEALTH_STATUS", "HEALTHY")
		has(t, "web", one, two)
		has(t, "blue", two)
		if got := reach(t, host, url("blue"), ""); got != "two" {
			t.Errorf("%s, want two", got)
		}
	})
	t.Run("DISC-013 unhealthy instances are not reached", func(t *testing.T) {
		r.health(web, two, types.CustomHealthStatusUnhealthy)
		has(t, "web", one)
		has(t, "blue")
		for range 10 {
			if got := reach(t, host, url("web"), ""); got != "one" {
				t.Fatalf("%s, want one", got)
			}
		}
		r.health(web, two, types.CustomHealthStatusHealthy)
		has(t, "web", one, two)
	})
	// A node that is found by DNS, whose name Envoy resolves through the mesh's name server.
	at := netip.AddrPortFrom(m.Home().Addr(), meshDNSPort)
	m.DNS().Forward("registry.cloud", at)
	t.Run("DISC-001 DISC-003 Envoy resolves names of the namespace", func(t *testing.T) {
		m.create("VirtualNode", "named", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}],
			"serviceDiscovery": {"dns": {"hostname": "web.registry.cloud", "responseType": "ENDPOINTS", "ipPreference": "IPv4_ONLY"}}}`, appPort))
		m.DNS().Set(m.hostname("named"), nobody)
		m.create("VirtualService", m.hostname("named"), `{"provider": {"virtualNode": {"virtualNodeName": "named"}}}`)
		m.settle(m.update("VirtualNode", "client", callerSpec(m.hostname("web"), m.hostname("blue"), m.hostname("named"))))
		has(t, "named", one, two)
		r.deregister(web, two)
		has(t, "named", one)
		if got := reach(t, host, url("named"), ""); got != "one" {
			t.Errorf("%s, want one", got)
		}
	})
	t.Run("VS-008 VS-009 TRBL-006 a virtual service needs no record of its own", func(t *testing.T) {
		const name = "orders.virtual"
		m.DNS().Forward("virtual", at)
		m.create("VirtualService", name, `{"provider": {"virtualNode": {"virtualNodeName": "web"}}}`)
		m.settle(m.update("VirtualNode", "client", callerSpec(m.hostname("web"), m.hostname("blue"), m.hostname("named"), name)))
		ctx, cancel := m.context()
		defer cancel()
		err := stage.Until(ctx, "the name resolves, and Envoy takes it to the service", func(ctx context.Context) bool {
			a, err := send(ctx, host, request{URL: fmt.Sprintf("http://%s:%d/", name, appPort)})
			return err == nil && a.App == "one"
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
