package cloudmap_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// noble refuses everything and notes what it was asked.
type noble struct{ asked []auth.Question }

func (n *noble) Authorize(_ context.Context, q auth.Question) error {
	n.asked = append(n.asked, q)
	return api.Errorf(api.CodeAccessDenied, "no")
}

// inputs are one that succeeds for each operation, in the order in which they do; ns
// and srv stand for the ids that were made.
var inputs = []struct {
	operation string
	in        map[string]any
}{
	{"CreateHttpNamespace", map[string]any{"Name": "web"}},
	{"CreatePublicDnsNamespace", map[string]any{"Name": "example.com"}},
	{"CreatePrivateDnsNamespace", map[string]any{"Name": "apps.local", "Vpc": "v"}},
	{"ListNamespaces", map[string]any{}},
	{"GetNamespace", map[string]any{"Id": "ns"}},
	{"UpdatePrivateDnsNamespace", map[string]any{"Id": "ns", "Namespace": map[string]any{}}},
	{"CreateService", map[string]any{"Name": "red", "NamespaceId": "ns", "HealthCheckCustomConfig": map[string]any{}, "DnsConfig": map[string]any{"DnsRecords": []any{map[string]any{"Type": "A", "TTL": 1}}}}},
	{"ListServices", map[string]any{}},
	{"GetService", map[string]any{"Id": "srv"}},
	{"UpdateService", map[string]any{"Id": "srv", "Service": map[string]any{"DnsConfig": map[string]any{"DnsRecords": []any{map[string]any{"Type": "A", "TTL": 2}}}}}},
	{"UpdateServiceAttributes", map[string]any{"ServiceId": "srv", "Attributes": map[string]any{"k": "v"}}},
	{"GetServiceAttributes", map[string]any{"ServiceId": "srv"}},
	{"DeleteServiceAttributes", map[string]any{"ServiceId": "srv", "Attributes": []any{"k"}}},
	{"RegisterInstance", map[string]any{"ServiceId": "srv", "InstanceId": "i", "Attributes": map[string]any{"AWS_INSTANCE_IPV4": "10.0.0.1"}}},
	{"GetInstance", map[string]any{"ServiceId": "srv", "InstanceId": "i"}},
	{"ListInstances", map[string]any{"ServiceId": "srv"}},
	{"GetInstancesHealthStatus", map[string]any{"ServiceId": "srv"}},
	{"UpdateInstanceCustomHealthStatus", map[string]any{"ServiceId": "srv", "InstanceId": "i", "Status": "UNHEALTHY"}},
	{"DiscoverInstances", map[string]any{"NamespaceName": "apps.local", "ServiceName": "red"}},
	{"DiscoverInstancesRevision", map[string]any{"NamespaceName": "apps.local", "ServiceName": "red"}},
	{"GetOperation", map[string]any{"OperationId": "op"}},
	{"ListOperations", map[string]any{}},
	{"TagResource", map[string]any{"ResourceARN": "arn", "Tags": []any{map[string]any{"Key": "team", "Value": "a"}}}},
	{"ListTagsForResource", map[string]any{"ResourceARN": "arn"}},
	{"UntagResource", map[string]any{"ResourceARN": "arn", "TagKeys": []any{"other"}}},
	{"DeregisterInstance", map[string]any{"ServiceId": "srv", "InstanceId": "i"}},
	{"DeleteService", map[string]any{"Id": "srv"}},
	{"DeleteNamespace", map[string]any{"Id": "ns"}},
	{"UpdateHttpNamespace", map[string]any{"Id": "http", "Namespace": map[string]any{"Description": "d"}}},
	{"UpdatePublicDnsNamespace", map[string]any{"Id": "public", "Namespace": map[string]any{"Description": "d"}}},
}

// ownAffairs are the operations that name nothing of anybody's.
var ownAffairs = []string{"CreateHttpNamespace", "CreatePublicDnsNamespace", "CreatePrivateDnsNamespace", "ListNamespaces", "ListServices", "ListOperations"}

// Every operation asks whether it may before it does or tells anything, also of what
// is not there; each that writes carries its event; and none does or tells another
// account anything of what it is given.
func TestEveryOperationAsksAndIsKept(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, storetest.New(t))
	for name := range s.Operations {
		if !slices.ContainsFunc(inputs, func(i struct {
			operation string
			in        map[string]any
		},
		) bool {
			return i.operation == name
		}) {
			t.Errorf("%s is not in the table", name)
		}
	}
	made := map[string]string{}
	as := account
	run := func(operation string, in map[string]any, by auth.Authorizer) (*service.Call, any, error) {
		filled := map[string]any{}
		for member, v := range in {
			if text, ok := v.(string); ok && made[text] != "" {
				v = made[text]
			}
			filled[member] = v
		}
		c := &service.Call{
			Service: s, Operation: operation, At: time.Now(), Input: filled, Authorizer: by, Principal: auth.Principal{Account: as},
			Event: func(out any) []byte { return fmt.Append(nil, out) },
		}
		out, err := s.Operations[operation].Run(t.Context(), c)
		return c, out, err
	}
	for _, i := range inputs {
		t.Run(i.operation, func(t *testing.T) {
			for _, there := range []bool{true, false} {
				in, no := i.in, &noble{}
				if !there { // the same ids as a foreigner would guess them
					in = map[string]any{}
					for member, v := range i.in {
						if text, ok := v.(string); ok && made[text] != "" {
							v = "srv-0000000000000000"
						}
						in[member] = v
					}
				}
				c, _, err := run(i.operation, in, no)
				refusal, ok := errors.AsType[*api.Error](err)
				if !ok || refusal.Code != api.CodeAccessDenied || c.Committed() {
					t.Fatalf("who may nothing is answered %v", err)
				}
				if len(no.asked) != 1 || no.asked[0].Action != "servicediscovery:"+i.operation {
					t.Errorf("it was asked %v", no.asked)
				}
			}
			if _, _, err := func() (*service.Call, any, error) {
				as = other
				defer func() { as = account }()
				return run(i.operation, i.in, auth.Roots{})
			}(); err == nil && !slices.Contains(ownAffairs, i.operation) {
				t.Error("another account is answered")
			}
			c, out, err := run(i.operation, i.in, auth.Roots{})
			if err != nil {
				t.Fatal(err)
			}
			if c.Committed() == s.Operations[i.operation].Reads {
				t.Errorf("committed: %v, reads: %v", c.Committed(), s.Operations[i.operation].Reads)
			}
			switch out := out.(type) {
			case *cloudmapapi.ListNamespacesResponse:
				for _, n := range out.Namespaces {
					made[map[cloudmapapi.NamespaceType]string{"HTTP": "http", "DNS_PUBLIC": "public", "DNS_PRIVATE": "ns"}[n.Type]] = *n.ID
				}
			case *cloudmapapi.CreateServiceResponse:
				made["srv"], made["arn"] = *out.Service.ID, *out.Service.ARN
			case *cloudmapapi.RegisterInstanceResponse:
				made["op"] = *out.OperationID
			}
		})
	}
}

// What policies can go by: the resource, its tags and those of the request, and names.
func TestConditionKeys(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, storetest.New(t))
	d := desk{t, s, account}
	d.do("CreatePrivateDnsNamespace", map[string]any{"Name": "apps.local", "Vpc": "v", "Tags": []any{map[string]any{"Key": "team", "Value": "a"}}})
	ns := *d.do("ListNamespaces", map[string]any{}).(*cloudmapapi.ListNamespacesResponse).Namespaces[0].ID
	nsARN := "arn:aws:servicediscovery:us-east-1:" + account + ":namespace/" + ns
	for _, c := range []struct {
		operation string
		in        map[string]any
		resource  string
		keys      map[string]string
	}{
		{"CreateHttpNamespace", map[string]any{"Name": "x", "Tags": []any{map[string]any{"Key": "team", "Value": "b"}}}, "*", map[string]string{"aws:requesttag/team": "b", "aws:tagkeys": "team"}},
		{"GetNamespace", map[string]any{"Id": ns}, nsARN, map[string]string{"aws:resourcetag/team": "a"}},
		{"GetNamespace", map[string]any{"Id": nsARN}, nsARN, map[string]string{"aws:resourcetag/team": "a"}},
		{"CreateService", map[string]any{"Name": "x", "NamespaceId": ns, "Tags": []any{map[string]any{"Key": "k", "Value": "v"}}}, nsARN, map[string]string{"servicediscovery:namespacearn": nsARN, "aws:resourcetag/team": "a", "aws:requesttag/k": "v"}},
		{"DiscoverInstances", map[string]any{"NamespaceName": "apps.local", "ServiceName": "x"}, "*", map[string]string{"servicediscovery:namespacename": "apps.local", "servicediscovery:servicename": "x"}},
		{"RegisterInstance", map[string]any{"ServiceId": "srv-x", "InstanceId": "i", "Attributes": map[string]any{}}, "arn:aws:servicediscovery:us-east-1:" + account + ":service/srv-x", map[string]string{"servicediscovery:servicearn": "arn:aws:servicediscovery:us-east-1:" + account + ":service/srv-x"}},
		{"UntagResource", map[string]any{"ResourceARN": nsARN, "TagKeys": []any{"team"}}, nsARN, map[string]string{"aws:tagkeys": "team", "aws:resourcetag/team": "a"}},
	} {
		no := &noble{}
		call := &service.Call{Service: s, Operation: c.operation, At: time.Now(), Input: c.in, Authorizer: no, Principal: auth.Principal{Account: account}}
		_, err := s.Operations[c.operation].Run(t.Context(), call)
		if err == nil || len(no.asked) != 1 {
			t.Fatalf("%s: %v, asked %v", c.operation, err, no.asked)
		}
		q := no.asked[0]
		if q.Resource != c.resource {
			t.Errorf("%s asks about %s, want %s", c.operation, q.Resource, c.resource)
		}
		for key, want := range c.keys {
			if got := q.Keys[key]; !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %s is %q, want %q", c.operation, key, got, want)
			}
		}
	}
}

// A repeat of a request that was done writes nothing, and so carries no event.
func TestRepeats(t *testing.T) {
	t.Parallel()
	s := serviceOn(t, storetest.New(t))
	run := func(operation string, in map[string]any) (any, bool) {
		c := &service.Call{Service: s, Operation: operation, At: time.Now(), Input: in, Authorizer: auth.Roots{}, Principal: auth.Principal{Account: account}}
		out, err := s.Operations[operation].Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return out, c.Committed()
	}
	create := map[string]any{"Name": "web", "CreatorRequestId": "r"}
	first, kept := run("CreateHttpNamespace", create)
	again, keptAgain := run("CreateHttpNamespace", create)
	if id := *first.(*cloudmapapi.CreateHTTPNamespaceResponse).OperationID; !kept || keptAgain || *again.(*cloudmapapi.CreateHTTPNamespaceResponse).OperationID != id {
		t.Errorf("kept: %v, then %v; the operation is %s, then %v", kept, keptAgain, id, again)
	}
}

// The last operations of a service are kept, and end with it.
func TestOperationsAreBounded(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	d := desk{t, serviceOn(t, data), account}
	id := d.apps("red")[0]
	var first, last string
	for i := range 60 {
		out := d.do("RegisterInstance", map[string]any{"ServiceId": id, "InstanceId": "i", "Attributes": map[string]any{"AWS_INSTANCE_IPV4": fmt.Sprintf("10.0.0.%d", i)}})
		last = *out.(*cloudmapapi.RegisterInstanceResponse).OperationID
		if first == "" {
			first = last
		}
	}
	if code := d.refused("GetOperation", map[string]any{"OperationId": first}); code != cloudmapapi.CodeOperationNotFound {
		t.Errorf("the first of 60 operations is refused with %q", code)
	}
	if got := d.do("GetOperation", map[string]any{"OperationId": last}).(*cloudmapapi.GetOperationResponse); *got.Operation.ID != last {
		t.Errorf("the last operation is %v", got.Operation)
	}
	d.do("DeregisterInstance", map[string]any{"ServiceId": id, "InstanceId": "i"})
	d.do("DeleteService", map[string]any{"Id": id})
	left, _, err := data.Records(t.Context(), "service/servicediscovery/"+account+"/service/")
	if err != nil || len(left) != 0 {
		t.Errorf("of a deleted service %d records are left, %v", len(left), err)
	}
}
