package cloudmap_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/internal/envoy"
)

func TestInstances(t *testing.T) {
	t.Parallel()
	registry, url := standIn(t)
	s, log := source(t, url)
	const v4, v6 = "10.0.0.1", "fd00::1"
	instance := func(pairs ...string) cloudmaptest.Instance {
		i := cloudmaptest.Instance{ID: "i", Attributes: map[string]string{}}
		for n := 0; n < len(pairs); n += 2 {
			i.Attributes[pairs[n]] = pairs[n+1]
		}
		return i
	}
	both := instance("AWS_INSTANCE_IPV4", v4, "AWS_INSTANCE_IPV6", v6, "AWS_INSTANCE_PORT", "90")
	only4 := instance("AWS_INSTANCE_IPV4", v4, "AWS_INSTANCE_PORT", "90")
	only6 := instance("AWS_INSTANCE_IPV6", v6, "AWS_INSTANCE_PORT", "90")
	for _, c := range []struct {
		name, preference string
		instances        []cloudmaptest.Instance
		want             []envoy.Endpoint
	}{
		{"IPP-002 no preference is IPv4 first", "", []cloudmaptest.Instance{both}, []envoy.Endpoint{at(v4, 90)}},
		{"IPP-002 no preference, then IPv6", "", []cloudmaptest.Instance{only6}, []envoy.Endpoint{at(v6, 90)}},
		{"IPP-003 IPv6 first", "IPv6_PREFERRED", []cloudmaptest.Instance{both}, []envoy.Endpoint{at(v6, 90)}},
		{"IPP-003 IPv6 first, then IPv4", "IPv6_PREFERRED", []cloudmaptest.Instance{only4}, []envoy.Endpoint{at(v4, 90)}},
		{"IPP-004 IPv4 first", "IPv4_PREFERRED", []cloudmaptest.Instance{both}, []envoy.Endpoint{at(v4, 90)}},
		{"IPP-004 IPv4 first, then IPv6", "IPv4_PREFERRED", []cloudmaptest.Instance{only6}, []envoy.Endpoint{at(v6, 90)}},
		{"IPP-005 only IPv6", "IPv6_ONLY", []cloudmaptest.Instance{both}, []envoy.Endpoint{at(v6, 90)}},
		{"IPP-005 only IPv6 and there is none", "IPv6_ONLY", []cloudmaptest.Instance{only4}, nil},
		{"IPP-006 only IPv4", "IPv4_ONLY", []cloudmaptest.Instance{both}, []envoy.Endpoint{at(v4, 90)}},
		{"IPP-006 only IPv4 and there is none", "IPv4_ONLY", []cloudmaptest.Instance{only6}, nil},
		{"DISC-011 an instance without a port has the listener's", "", []cloudmaptest.Instance{instance("AWS_INSTANCE_IPV4", v4)}, []envoy.Endpoint{at(v4, 8080)}},
		{"DISC-011 other attributes are no matter", "", []cloudmaptest.Instance{instance("AWS_INSTANCE_IPV4", v4, "AWS_INIT_HEALTH_STATUS", "UNHEALTHY", "k8s.io/pod", "p")}, []envoy.Endpoint{at(v4, 8080)}},
		{"two instances at one place", "", []cloudmaptest.Instance{only4, only4}, []envoy.Endpoint{at(v4, 90)}},
		{"ways to write an address", "", []cloudmaptest.Instance{instance("AWS_INSTANCE_IPV6", "FD00:0:0:0:0:0:0:1")}, []envoy.Endpoint{at(v6, 8080)}},
		{"one that cannot be used among others", "", []cloudmaptest.Instance{instance("AWS_ALIAS_DNS_NAME", "lb.example.com"), only4}, []envoy.Endpoint{at(v4, 90)}},
		{"no instance can be used", "", []cloudmaptest.Instance{
			instance("AWS_INSTANCE_IPV4", "10.0.0.256"), instance("AWS_INSTANCE_IPV4", v6), instance("AWS_INSTANCE_IPV6", "fe80::1%eth0"),
			instance("AWS_INSTANCE_IPV4", v4, "AWS_INSTANCE_PORT", "0"), instance("AWS_INSTANCE_IPV4", v4, "AWS_INSTANCE_PORT", "65536"), instance(),
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := query(strings.ReplaceAll(c.name, " ", "-"))
			q.IPPreference = c.preference
			registry.Set(q.Namespace, q.Service, c.instances...)
			watch(t, s, q).until(c.want...)
		})
	}
	for _, want := range []string{"service=one-that-cannot-be-used-among-others instances=1", "service=no-instance-can-be-used instances=6"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log does not say once %q:\n%s", want, log)
		}
	}
	if strings.Contains(log.String(), "IPP-00") {
		t.Errorf("the log speaks of instances of the other family:\n%s", log)
	}
}
