package cloudmap_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func query(account, service string) envoy.EndpointQuery {
	return envoy.EndpointQuery{Source: "cloudmap", Account: account, Namespace: "apps.local", Service: service, Port: 8080}
}

// apps makes the namespace apps.local, private, and services in it; their ids.
func (d desk) apps(services ...string) (ids []string) {
	d.t.Helper()
	d.do("CreatePrivateDnsNamespace", map[string]any{"Name": "apps.local", "Vpc": "vpc-1"})
	ns := d.do("ListNamespaces", map[string]any{}).(*cloudmapapi.ListNamespacesResponse).Namespaces[0]
	for _, s := range services {
		made := d.do("CreateService", map[string]any{
			"Name": s, "NamespaceId": *ns.ID, "HealthCheckCustomConfig": map[string]any{},
			"DnsConfig": map[string]any{"DnsRecords": []any{map[string]any{"Type": "A", "TTL": 5}}},
		}).(*cloudmapapi.CreateServiceResponse)
		ids = append(ids, *made.Service.ID)
	}
	return ids
}

func (d desk) register(service, id string, attributes ...string) {
	d.t.Helper()
	all := map[string]any{}
	for i := 0; i < len(attributes); i += 2 {
		all[attributes[i]] = attributes[i+1]
	}
	d.do("RegisterInstance", map[string]any{"ServiceId": service, "InstanceId": id, "Attributes": all})
}

// What is registered is told to who watches, at another replica than the one that
// took it.
func TestPush(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	d := desk{t, serviceOn(t, stores[0]), account}
	r := watching(t, stores[1])
	early := listen(t, r, query(account, "red"))
	ids := d.apps("red", "blue")
	red, blue := ids[0], ids[1]

	t.Run("DISC-005 DISC-010 instances come and go without a poll", func(t *testing.T) {
		early.hears(t, "")
		d.register(red, "one", "AWS_INSTANCE_IPV4", "10.0.0.1", "AWS_INSTANCE_PORT", "9080")
		early.hears(t, "10.0.0.1:9080")
		d.register(red, "two", "AWS_INSTANCE_IPV4", "10.0.0.2")
		early.hears(t, "10.0.0.1:9080 10.0.0.2:8080")
		d.register(red, "one", "AWS_INSTANCE_IPV4", "10.0.0.3", "AWS_INSTANCE_PORT", "9080")
		early.hears(t, "10.0.0.2:8080 10.0.0.3:9080")
		d.do("DeregisterInstance", map[string]any{"ServiceId": red, "InstanceId": "one"})
		early.hears(t, "10.0.0.2:8080")
	})
	t.Run("DISC-013 an unhealthy instance is not pushed", func(t *testing.T) {
		set := func(id, status string) {
			d.do("UpdateInstanceCustomHealthStatus", map[string]any{"ServiceId": red, "InstanceId": id, "Status": status})
		}
		set("two", "UNHEALTHY")
		early.hears(t, "")
		set("two", "HEALTHY")
		early.hears(t, "10.0.0.2:8080")
		d.register(red, "three", "AWS_INSTANCE_IPV4", "10.0.0.3", "AWS_INIT_HEALTH_STATUS", "UNHEALTHY")
		d.register(red, "four", "AWS_INSTANCE_IPV4", "10.0.0.4", "AWS_INIT_HEALTH_STATUS", "HEALTHY")
		early.hears(t, "10.0.0.2:8080 10.0.0.4:8080")
		// Health that was reported outlives a registration that says nothing of it.
		d.register(red, "three", "AWS_INSTANCE_IPV4", "10.0.0.5")
		set("three", "HEALTHY")
		early.hears(t, "10.0.0.2:8080 10.0.0.4:8080 10.0.0.5:8080")
	})
	t.Run("DISC-005 attributes select", func(t *testing.T) {
		q := query(account, "blue")
		q.Attributes = "color=blue\nodd%3D=a=b"
		e := listen(t, r, q)
		d.register(blue, "one", "AWS_INSTANCE_IPV4", "10.0.1.1", "color", "blue", "odd=", "a=b")
		d.register(blue, "two", "AWS_INSTANCE_IPV4", "10.0.1.2", "color", "blue")
		d.register(blue, "three", "AWS_INSTANCE_IPV4", "10.0.1.3", "color", "blue", "odd=", "a=b", "more", "of it")
		e.hears(t, "10.0.1.1:8080 10.0.1.3:8080")
		listen(t, r, query(account, "blue")).hears(t, "10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080")
	})
	t.Run("DISC-011 attributes of ECS tasks and of Kubernetes pods pass through", func(t *testing.T) {
		q := query(account, "blue")
		q.Attributes = "ECS_CLUSTER_NAME=c\nk8s.io/pod=web-7d"
		e := listen(t, r, q)
		d.register(blue, "task", "AWS_INSTANCE_IPV4", "10.0.1.9", "AWS_INIT_HEALTH_STATUS", "HEALTHY", "ECS_CLUSTER_NAME", "c",
			"k8s.io/pod", "web-7d", "k8s.io/namespace", "default", "AVAILABILITY_ZONE", "us-east-1a", "ECS_TASK_DEFINITION_FAMILY", "web")
		e.hears(t, "10.0.1.9:8080")
	})
	t.Run("DISC-009 another account's service is not found", func(t *testing.T) {
		e := listen(t, r, query(other, "red"))
		theirs := desk{t, d.service, other}
		ids := theirs.apps("red")
		e.hears(t, "")
		theirs.register(ids[0], "one", "AWS_INSTANCE_IPV4", "10.9.9.9")
		e.hears(t, "10.9.9.9:8080")
		if got := early.last(); got != "10.0.0.2:8080 10.0.0.4:8080 10.0.0.5:8080" {
			t.Errorf("the first account's set is now %q", got)
		}
	})
	t.Run("DISC-008 names of DNS namespaces know no case", func(t *testing.T) {
		q := query(account, "RED")
		q.Namespace = "Apps.Local"
		listen(t, r, q).hears(t, "10.0.0.2:8080 10.0.0.4:8080 10.0.0.5:8080")
	})
	t.Run("what is not registered is not known", func(t *testing.T) {
		e := listen(t, r, query(account, "green"))
		last := listen(t, r, query(account, "red"))
		last.hears(t, "10.0.0.2:8080 10.0.0.4:8080 10.0.0.5:8080")
		if n := e.told(); n != 0 {
			t.Errorf("a service that does not exist was told %d times", n)
		}
	})
}

// A service's end leaves the empty set that its last instance's left.
func TestPushOfTheEnd(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	d := desk{t, serviceOn(t, s), account}
	id := d.apps("red")[0]
	d.register(id, "one", "AWS_INSTANCE_IPV4", "10.0.0.1")
	e := listen(t, watching(t, s), query(account, "red"))
	e.hears(t, "10.0.0.1:8080")
	if code := d.refused("DeleteService", map[string]any{"Id": id}); code != cloudmapapi.CodeResourceInUse {
		t.Errorf("a service with instances was deleted, or refused with %q", code)
	}
	d.do("DeregisterInstance", map[string]any{"ServiceId": id, "InstanceId": "one"})
	e.hears(t, "")
	d.do("DeleteService", map[string]any{"Id": id})
	ns := d.do("ListNamespaces", map[string]any{}).(*cloudmapapi.ListNamespacesResponse).Namespaces[0]
	made := d.do("CreateService", map[string]any{"Name": "red", "NamespaceId": *ns.ID, "Type": "HTTP"}).(*cloudmapapi.CreateServiceResponse)
	d.register(*made.Service.ID, "two", "AWS_INSTANCE_IPV4", "10.0.0.2")
	e.hears(t, "10.0.0.2:8080")
}

// Registrations of two services do not meet, and those of one are put in a line:
// all of them happen, at both replicas.
func TestRegistrationsAtOnce(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	first, second := desk{t, serviceOn(t, stores[0]), account}, desk{t, serviceOn(t, stores[1]), account}
	ids := first.apps("red", "blue")
	const each = 20
	done := make(chan error)
	for n, at := range []desk{first, second} {
		for _, service := range ids {
			go func() {
				var failed error
				for i := range each {
					_, err := at.try("RegisterInstance", map[string]any{
						"ServiceId": service, "InstanceId": fmt.Sprintf("i-%d-%d", n, i), "Attributes": map[string]any{"AWS_INSTANCE_IPV4": fmt.Sprintf("10.0.%d.%d", n, i)},
					})
					if err != nil {
						failed = err
					}
				}
				done <- failed
			}()
		}
	}
	for range 2 * len(ids) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, service := range ids {
		out := second.do("GetService", map[string]any{"Id": service}).(*cloudmapapi.GetServiceResponse)
		if n := *out.Service.InstanceCount; n != 2*each {
			t.Errorf("%d instances are counted, want %d", n, 2*each)
		}
		found := second.do("DiscoverInstances", map[string]any{"NamespaceName": "apps.local", "ServiceName": *out.Service.Name}).(*cloudmapapi.DiscoverInstancesResponse)
		if len(found.Instances) != 2*each {
			t.Errorf("%d instances are discovered, want %d", len(found.Instances), 2*each)
		}
	}
}

// How long a registration takes to reach who watches at another replica.
func TestPushTime(t *testing.T) {
	stores := storetest.Replicas(t, 2)
	d := desk{t, serviceOn(t, stores[0]), account}
	id := d.apps("red")[0]
	e := listen(t, watching(t, stores[1]), query(account, "red"))
	e.hears(t, "")
	var all time.Duration
	const times = 20
	for i := range times {
		began := time.Now()
		d.register(id, "one", "AWS_INSTANCE_IPV4", fmt.Sprintf("10.0.0.%d", i+1))
		testenv.Eventually(t, "it is told", func() bool { return e.last() == fmt.Sprintf("10.0.0.%d:8080", i+1) })
		all += time.Since(began)
	}
	t.Logf("from the call to the push at the other replica: %v on average of %d", all/times, times)
	if all/times > time.Second {
		t.Errorf("a registration is pushed after %v", all/times)
	}
}

// A change is told to who watches that service, and wakes nobody else.
func TestPushWakesWhoseServiceItIs(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	d := desk{t, serviceOn(t, s), account}
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint("s", i))
	}
	ids := d.apps(names...)
	r := watching(t, s)
	testenv.Eventually(t, "the registry is read", r.Loaded) // which is told to all
	var ears []*ear
	for _, name := range names {
		ears = append(ears, listen(t, r, query(account, name)))
	}
	for _, e := range ears {
		e.hears(t, "")
	}
	d.do("TagResource", map[string]any{"ResourceARN": "arn:aws:servicediscovery:us-east-1:" + account + ":service/" + ids[1], "Tags": []any{}})
	for i := range 10 {
		d.register(ids[0], "one", "AWS_INSTANCE_IPV4", fmt.Sprintf("10.0.0.%d", i+1))
	}
	ears[0].hears(t, "10.0.0.10:8080")
	for i, e := range ears[2:] {
		if n := e.told(); n != 1 {
			t.Errorf("who watches %s was told %d times, want once", names[i+2], n)
		}
	}
}
