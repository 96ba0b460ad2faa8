package cloudmap_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// ground is a server with Cloud Map.
type ground struct{ *resttest.Server }

// python runs a script as the first account; sd is its client, sd2 another
// account's. What it prints is compared; ids and times are for the script to check.
func (g ground) python(t *testing.T, script, want string) {
	t.Helper()
	got := g.Python(t, resttest.Root(account), "sd = client('servicediscovery')\nsd2 = client('servicediscovery', "+resttest.Root(other).Text()+")\n"+script)
	if got != strings.TrimSpace(want) {
		t.Errorf("it printed\n%s\nwant\n%s", got, strings.TrimSpace(want))
	}
}

// What users of Cloud Map do one after the other, with the AWS CLI and boto3.
func TestStory(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	g := ground{resttest.Serve(t, resttest.Options{Store: s, Services: []*service.Service{serviceOn(t, s)}})}

	t.Run("namespaces of three kinds, and operations that are done", func(t *testing.T) {
		g.python(t, `
def done(op):
    o = sd.get_operation(OperationId=op["OperationId"])["Operation"]
    assert o["Id"] == op["OperationId"] and o["CreateDate"] == o["UpdateDate"], o
    return o["Type"], o["Status"], o["Targets"]
kind, status, targets = done(sd.create_http_namespace(Name="web", Description="over HTTP", Tags=[{"Key": "team", "Value": "a"}]))
web = targets["NAMESPACE"]
print(kind, status, web.startswith("ns-"))
private = done(sd.create_private_dns_namespace(Name="apps.local", Vpc="vpc-any", Properties={"DnsProperties": {"SOA": {"TTL": 7}}}))[2]["NAMESPACE"]
public = done(sd.create_public_dns_namespace(Name="example.com"))[2]["NAMESPACE"]
n = sd.get_namespace(Id=private)["Namespace"]
print(n["Name"], n["Type"], n["Arn"] == "arn:aws:servicediscovery:us-east-1:111111111111:namespace/" + private, n["ServiceCount"], n["ResourceOwner"])
print(n["Properties"]["DnsProperties"]["SOA"], n["Properties"]["DnsProperties"]["HostedZoneId"][:1], n["Properties"]["HttpProperties"], "CreateDate" in n)
n = sd.get_namespace(Id=web)["Namespace"]
print(n["Type"], n["Description"], n["Properties"])
print(sorted(n["Name"] for n in sd.list_namespaces()["Namespaces"]))
for filters in ([{"Name": "TYPE", "Values": ["DNS_PRIVATE"]}], [{"Name": "TYPE", "Condition": "IN", "Values": ["HTTP", "DNS_PUBLIC"]}],
                [{"Name": "NAME", "Condition": "BEGINS_WITH", "Values": ["app"]}], [{"Name": "HTTP_NAME", "Values": ["web"]}], [{"Name": "RESOURCE_OWNER", "Values": ["OTHER_ACCOUNTS"]}]):
    print(sorted(n["Name"] for n in sd.list_namespaces(Filters=filters)["Namespaces"]))
print(refusal(sd.create_private_dns_namespace, Name="Apps.Local", Vpc="vpc-2").replace(private, "ID"))
print(refusal(sd.create_public_dns_namespace, Name="nodots").split(":")[0])
print(refusal(sd.create_private_dns_namespace, Name="not a domain", Vpc="v").split(":")[0])
print(refusal(sd.get_namespace, Id="ns-none"))
print(refusal(sd.get_operation, OperationId="nothing-of-the-kind").split(":")[0])
print(refusal(sd.list_namespaces, Filters=[{"Name": "TYPE", "Condition": "BETWEEN", "Values": ["a", "b"]}]))
one = sd.create_http_namespace(Name="again", CreatorRequestId="r1")["OperationId"]
print(one == sd.create_http_namespace(Name="again", CreatorRequestId="r1")["OperationId"], refusal(sd.create_http_namespace, Name="again", CreatorRequestId="r2").split(":")[0])
print(done(sd.update_private_dns_namespace(Id=private, Namespace={"Description": "d", "Properties": {"DnsProperties": {"SOA": {"TTL": 9}}}}))[0])
n = sd.get_namespace(Id=private)["Namespace"]
print(n["Description"], n["Properties"]["DnsProperties"]["SOA"]["TTL"])
print(done(sd.update_http_namespace(Id=web, Namespace={"Description": "new"}))[0], refusal(sd.update_http_namespace, Id=private, Namespace={"Description": "new"}).split(":")[0])
print(done(sd.update_public_dns_namespace(Id=public, Namespace={"Description": "new"}))[0])
print(done(sd.delete_namespace(Id=public))[0], refusal(sd.delete_namespace, Id=public).split(":")[0])
print([o["Status"] for o in sd.list_operations(Filters=[{"Name": "TYPE", "Values": ["DELETE_NAMESPACE"]}])["Operations"]])
print(len(sd.list_operations(Filters=[{"Name": "NAMESPACE_ID", "Values": [private]}, {"Name": "STATUS", "Condition": "IN", "Values": ["SUCCESS"]}])["Operations"]))
now = time.time()
print(len(sd.list_operations(Filters=[{"Name": "UPDATE_DATE", "Condition": "BETWEEN", "Values": [str(now - 60), str(now + 60)]}])["Operations"]),
      len(sd.list_operations(Filters=[{"Name": "UPDATE_DATE", "Condition": "BETWEEN", "Values": ["0", "1"]}])["Operations"]))
`, `
CREATE_NAMESPACE SUCCESS True
apps.local DNS_PRIVATE True 0 111111111111
{'TTL': 7} Z {'HttpName': 'apps.local'} True
HTTP over HTTP {'HttpProperties': {'HttpName': 'web'}}
['apps.local', 'example.com', 'web']
['apps.local']
['example.com', 'web']
['apps.local']
['web']
[]
400 NamespaceAlreadyExists: Namespace with the name Apps.Local and the type DNS_PRIVATE already exists: ID
400 InvalidInput
400 InvalidInput
404 NamespaceNotFound: Namespace ns-none does not exist
404 OperationNotFound
400 InvalidInput: The filter TYPE does not take the condition BETWEEN.
True 400 NamespaceAlreadyExists
UPDATE_NAMESPACE
d 9
UPDATE_NAMESPACE 400 InvalidInput
UPDATE_NAMESPACE
DELETE_NAMESPACE 404 NamespaceNotFound
['SUCCESS']
2
8 0`)
	})

	const find = `
ns = {n["Name"]: n["Id"] for n in sd.list_namespaces()["Namespaces"]}
web, private = ns["web"], ns["apps.local"]
`
	t.Run("services and their answers in DNS", func(t *testing.T) {
		g.python(t, find+`
A = [{"Type": "A", "TTL": 5}]
s = sd.create_service(Name="Red", NamespaceId=private, DnsConfig={"DnsRecords": A}, HealthCheckCustomConfig={"FailureThreshold": 3}, CreatorRequestId="r", Tags=[{"Key": "k", "Value": "v"}])["Service"]
print(s["Name"], s["Type"], s["NamespaceId"] == private, s["DnsConfig"]["RoutingPolicy"], s["DnsConfig"]["DnsRecords"], s["HealthCheckCustomConfig"], s["InstanceCount"])
print(s["Arn"] == "arn:aws:servicediscovery:us-east-1:111111111111:service/" + s["Id"], s["Id"][:4], s["CreatorRequestId"])
print(s["Id"] == sd.create_service(Name="Red", NamespaceId=private, DnsConfig={"DnsRecords": A}, CreatorRequestId="r")["Service"]["Id"])
print(refusal(sd.create_service, Name="red", NamespaceId=private, DnsConfig={"DnsRecords": A}).replace(s["Id"], "ID").replace(private, "NS"))
h = sd.create_service(Name="cart", NamespaceId=web)["Service"]
print(h["Type"], "DnsConfig" in h, sd.create_service(Name="Cart", NamespaceId=web)["Service"]["Name"])
only = sd.create_service(Name="only-api", DnsConfig={"NamespaceId": private, "DnsRecords": A})["Service"]
api = sd.create_service(Name="api", NamespaceId="arn:aws:servicediscovery:us-east-1:111111111111:namespace/" + private, Type="HTTP")["Service"]
print(only["NamespaceId"] == private, api["Type"])
for more in (dict(NamespaceId=web, DnsConfig={"DnsRecords": A}), dict(NamespaceId=private), dict(NamespaceId="ns-none"), dict(),
             dict(NamespaceId=private, DnsConfig={"DnsRecords": A + A}), dict(NamespaceId=private, DnsConfig={"DnsRecords": []}),
             dict(NamespaceId=private, DnsConfig={"DnsRecords": [{"Type": "CNAME", "TTL": 5}]}),
             dict(NamespaceId=private, DnsConfig={"RoutingPolicy": "WEIGHTED", "DnsRecords": A + [{"Type": "CNAME", "TTL": 5}]}),
             dict(NamespaceId=private, DnsConfig={"DnsRecords": A}, HealthCheckConfig={"Type": "TCP"}),
             dict(NamespaceId=private, DnsConfig={"DnsRecords": A}, HealthCheckConfig={"Type": "TCP"}, HealthCheckCustomConfig={}),
             dict(NamespaceId=private, DnsConfig={"DnsRecords": A}, Tags=[{"Key": "aws:x", "Value": ""}])):
    print(refusal(sd.create_service, Name="bad", **more).replace(private, "NS"))
print(refusal(sd.create_service, Name="-bad", NamespaceId=private, DnsConfig={"DnsRecords": A}).split(":")[0])
print(sorted(s["Name"] for s in sd.list_services()["Services"]), sorted(s["Name"] for s in sd.list_services(Filters=[{"Name": "NAMESPACE_ID", "Values": [web]}])["Services"]))
names, token = [], None
while True:
    page = sd.list_services(MaxResults=2, **({"NextToken": token} if token else {}))
    names += [s["Name"] for s in page["Services"]]
    token = page.get("NextToken")
    if not token: break
print(len(names), sorted(set(names)))
op = sd.update_service(Id=s["Id"], Service={"Description": "d", "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 1}, {"Type": "AAAA", "TTL": 2}]}})["OperationId"]
o = sd.get_operation(OperationId=op)["Operation"]
print(o["Type"], o["Targets"] == {"SERVICE": s["Id"]})
print([r["TTL"] for r in sd.get_service(Id=s["Arn"])["Service"]["DnsConfig"]["DnsRecords"]])
sd.update_service(Id=api["Id"], Service={"Description": "none"})
print(refusal(sd.update_service, Id=api["Id"], Service={"DnsConfig": {"DnsRecords": A}}))
print(refusal(sd.delete_namespace, Id=web))
print(sd.get_namespace(Id=web)["Namespace"]["ServiceCount"])
sd.update_service_attributes(ServiceId=s["Id"], Attributes={"weight": "3", "stage": "prod"})
sd.delete_service_attributes(ServiceId=s["Id"], Attributes=["stage", "absent"])
a = sd.get_service_attributes(ServiceId=s["Id"])["ServiceAttributes"]
print(a["Attributes"], a["ServiceArn"] == s["Arn"], a["ResourceOwner"])
print(refusal(sd.update_service_attributes, ServiceId=s["Id"], Attributes={"k%d" % i: "v" for i in range(30)}))
sd.tag_resource(ResourceARN=s["Arn"], Tags=[{"Key": "k", "Value": "w"}, {"Key": "l", "Value": ""}])
sd.untag_resource(ResourceARN=s["Arn"], TagKeys=["l"])
print(sd.list_tags_for_resource(ResourceARN=s["Arn"])["Tags"], sd.list_tags_for_resource(ResourceARN=h["Arn"])["Tags"])
print(refusal(sd.tag_resource, ResourceARN=s["Arn"], Tags=[{"Key": "t%d" % i, "Value": ""} for i in range(60)]).split(":")[0])
print(refusal(sd.list_tags_for_resource, ResourceARN=s["Arn"][:-3]).split(":")[0], refusal(sd2.list_tags_for_resource, ResourceARN=s["Arn"]).split(":")[0])
sd.delete_service(Id=api["Id"])
print(refusal(sd.delete_service, Id=api["Id"]).replace(api["Id"], "ID"))
`, `
Red DNS_HTTP True MULTIVALUE [{'Type': 'A', 'TTL': 5}] {'FailureThreshold': 1} 0
True srv- r
True
400 ServiceAlreadyExists: Service with the name red already exists in the namespace NS: ID
HTTP False Cart
True HTTP
400 InvalidInput: When you specify an HTTP service, you can't include a DnsConfig element.
400 InvalidInput: A service in the DNS namespace NS needs a DnsConfig, or the Type HTTP.
404 NamespaceNotFound: Namespace ns-none does not exist
400 InvalidInput: Service namespace id cannot be null
400 InvalidInput: DnsRecords has the type A twice.
400 InvalidInput: DnsConfig has no DnsRecords.
400 InvalidInput: DnsRecords of the type CNAME need the RoutingPolicy WEIGHTED.
400 InvalidInput: DnsRecords has the type CNAME beside others: a name with a CNAME record has nothing else.
400 InvalidInput: HealthCheckConfig asks Route 53 to check instances from outside, and there is no Route 53 here: use HealthCheckCustomConfig, and report with UpdateInstanceCustomHealthStatus; proxies check what listeners ask for.
400 InvalidInput: You can specify HealthCheckConfig or HealthCheckCustomConfig, and not both.
400 InvalidInput: The tag key aws:x begins with aws:, which is reserved.
400 InvalidInput
['Cart', 'Red', 'api', 'cart', 'only-api'] ['Cart', 'cart']
5 ['Cart', 'Red', 'api', 'cart', 'only-api']
UPDATE_SERVICE True
[1, 2]
400 InvalidInput: When you specify an HTTP service, you can't include a DnsConfig element.
409 ResourceInUse: Namespace contains registered services; delete the services before deleting the namespace
2
{'weight': '3'} True 111111111111
400 ServiceAttributesLimitExceededException: Cannot update service attributes because the number of attributes for the service exceeds the limit of 30.
[{'Key': 'k', 'Value': 'w'}] []
400 TooManyTagsException
404 ResourceNotFoundException 400 AccessDeniedException
404 ServiceNotFound: Service ID does not exist`)
	})

	t.Run("instances", func(t *testing.T) {
		g.python(t, find+`
red, = [s for s in sd.list_services()["Services"] if s["Name"] == "Red"]
cart, = [s for s in sd.list_services()["Services"] if s["Name"] == "cart"]
sd.update_service(Id=red["Id"], Service={"DnsConfig": {"DnsRecords": [{"Type": "SRV", "TTL": 1}, {"Type": "A", "TTL": 1}]}})
for attributes in ({}, {"AWS_INSTANCE_IPV4": "10.0.0.1"}, {"AWS_INSTANCE_IPV4": "10.0.0.256", "AWS_INSTANCE_PORT": "80"}, {"AWS_INSTANCE_IPV4": "::1", "AWS_INSTANCE_PORT": "80"},
                   {"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "0"}, {"AWS_EC2_INSTANCE_ID": "i-0abc"}, {"AWS_INIT_HEALTH_STATUS": "ILL"},
                   {"AWS_ALIAS_DNS_NAME": "lb.example.com"}, {"k%d" % i: "v" for i in range(31)}, {"k%d" % i: "v" * 999 for i in range(6)}):
    print(refusal(sd.register_instance, ServiceId=red["Id"], InstanceId="i", Attributes=attributes))
print(refusal(sd.register_instance, ServiceId=red["Id"], InstanceId="not an id", Attributes={}).split(":")[0])
print(refusal(sd.register_instance, ServiceId="srv-none", InstanceId="i", Attributes={}))
before = sd.discover_instances_revision(NamespaceName="apps.local", ServiceName="Red")["InstancesRevision"]
op = sd.register_instance(ServiceId=red["Arn"], InstanceId="pod/1", CreatorRequestId="r", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "80", "k8s.io/pod": "p"})["OperationId"]
o = sd.get_operation(OperationId=op)["Operation"]
print(o["Type"], o["Status"], o["Targets"] == {"INSTANCE": "pod/1", "SERVICE": red["Id"]})
same = sd.register_instance(ServiceId=red["Id"], InstanceId="pod/1", CreatorRequestId="r", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "80", "k8s.io/pod": "p"})["OperationId"]
print(same == op, sd.discover_instances_revision(NamespaceName="apps.local", ServiceName="Red")["InstancesRevision"] - before)
sd.register_instance(ServiceId=red["Id"], InstanceId="pod/1", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.2", "AWS_INSTANCE_PORT": "80"})
i = sd.get_instance(ServiceId=red["Id"], InstanceId="pod/1")
print(i["Instance"]["Id"], i["Instance"]["Attributes"], i["ResourceOwner"], sd.get_service(Id=red["Id"])["Service"]["InstanceCount"])
for n in range(3):
    sd.register_instance(ServiceId=red["Id"], InstanceId="i%d" % n, Attributes={"AWS_INSTANCE_IPV4": "10.0.1.%d" % n, "AWS_INSTANCE_PORT": "80"})
print([i["Id"] for i in sd.list_instances(ServiceId=red["Id"])["Instances"]])
page = sd.list_instances(ServiceId=red["Id"], MaxResults=3)
print([i["Id"] for i in page["Instances"]], [i["Id"] for i in sd.list_instances(ServiceId=red["Id"], NextToken=page["NextToken"])["Instances"]])
print(refusal(sd.list_instances, ServiceId=red["Id"], NextToken="!").split(":")[0], sd.list_instances(ServiceId=cart["Id"])["Instances"])
print(refusal(sd.delete_service, Id=red["Id"]))
print(refusal(sd.get_instance, ServiceId=red["Id"], InstanceId="none"), "|", refusal(sd.deregister_instance, ServiceId=red["Id"], InstanceId="none").split(":")[0])
print(refusal(sd2.register_instance, ServiceId=red["Arn"], InstanceId="i", Attributes={}).replace(red["Arn"], "ARN"))
print(refusal(sd2.register_instance, ServiceId=red["Id"], InstanceId="i", Attributes={}).split(":")[0])
for n in range(3):
    assert sd.get_operation(OperationId=sd.deregister_instance(ServiceId=red["Id"], InstanceId="i%d" % n)["OperationId"])["Operation"]["Type"] == "DEREGISTER_INSTANCE"
print([i["Id"] for i in sd.list_instances(ServiceId=red["Id"])["Instances"]], len(sd.list_operations(Filters=[{"Name": "SERVICE_ID", "Values": [red["Id"]]}])["Operations"]))
`, `
400 InvalidInput: The service has A records, for which an instance needs AWS_INSTANCE_IPV4.
400 InvalidInput: The service has SRV records, for which an instance needs AWS_INSTANCE_PORT.
400 InvalidInput: AWS_INSTANCE_IPV4 is "10.0.0.256", which is not an IPv4 address.
400 InvalidInput: AWS_INSTANCE_IPV4 is "::1", which is not an IPv4 address.
400 InvalidInput: AWS_INSTANCE_PORT is "0", which is not a port: want 1 to 65535.
400 InvalidInput: AWS_EC2_INSTANCE_ID asks EC2 for the instance's address, and there is no EC2 here: give AWS_INSTANCE_IPV4.
400 InvalidInput: AWS_INIT_HEALTH_STATUS is "ILL": want HEALTHY or UNHEALTHY.
400 InvalidInput: AWS_ALIAS_DNS_NAME needs a service with the RoutingPolicy WEIGHTED.
400 InvalidInput: The instance has 31 custom attributes: at most 30 are allowed.
400 InvalidInput: The attributes have 6006 characters in all: at most 5000 are allowed.
400 InvalidInput
404 ServiceNotFound: Service srv-none does not exist
REGISTER_INSTANCE SUCCESS True
True 1
pod/1 {'AWS_INSTANCE_IPV4': '10.0.0.2', 'AWS_INSTANCE_PORT': '80'} 111111111111 1
['i0', 'i1', 'i2', 'pod/1']
['i0', 'i1', 'i2'] ['pod/1']
400 InvalidInput []
409 ResourceInUse: Service contains registered instances; delete the instances before deleting the service
404 InstanceNotFound: Instance none does not exist | 404 InstanceNotFound
400 AccessDeniedException: User: arn:aws:iam::222222222222:root is not authorized to perform: servicediscovery:RegisterInstance on resource: ARN
404 ServiceNotFound
['pod/1'] 10`)
	})

	t.Run("DISC-007 DISC-008 DISC-013 instances are discovered by names, health and attributes", func(t *testing.T) {
		g.python(t, find+`
red, = [s for s in sd.list_services()["Services"] if s["Name"] == "Red"]
cart, = [s for s in sd.list_services()["Services"] if s["Name"] == "cart"]
def found(ns="apps.local", service="Red", **more):
    return sorted(i["InstanceId"] for i in sd.discover_instances(NamespaceName=ns, ServiceName=service, **more)["Instances"])
def health(id, status):
    sd.update_instance_custom_health_status(ServiceId=red["Id"], InstanceId=id, Status=status)
sd.deregister_instance(ServiceId=red["Id"], InstanceId="pod/1")
for n in range(4):
    sd.register_instance(ServiceId=red["Id"], InstanceId="i%d" % n, Attributes={"AWS_INSTANCE_IPV4": "10.0.1.%d" % n, "AWS_INSTANCE_PORT": "80", "zone": "ab"[n % 2], "AWS_INIT_HEALTH_STATUS": "HEALTHY"})
out = sd.discover_instances(NamespaceName="apps.local", ServiceName="red", QueryParameters={"AWS_INSTANCE_IPV4": "10.0.1.2"})
i, = out["Instances"]
print(i["InstanceId"], i["NamespaceName"], i["ServiceName"], i["HealthStatus"], i["Attributes"]["zone"])
print(out["InstancesRevision"] == sd.discover_instances_revision(NamespaceName="apps.local", ServiceName="Red")["InstancesRevision"])
health("i1", "UNHEALTHY")
print(out["InstancesRevision"] == sd.discover_instances_revision(NamespaceName="apps.local", ServiceName="Red")["InstancesRevision"])
print(found(), found(HealthStatus="ALL"), found(HealthStatus="UNHEALTHY"), found(HealthStatus="HEALTHY", QueryParameters={"zone": "b"}))
print(found(OptionalParameters={"zone": "a"}), found(OptionalParameters={"zone": "z"}), len(found(MaxResults=2)))
for n in (0, 2, 3): health("i%d" % n, "UNHEALTHY")
print(found(), found(HealthStatus="HEALTHY"))
print(sorted(sd.get_instances_health_status(ServiceId=red["Id"])["Status"].items()))
print(sd.get_instances_health_status(ServiceId=red["Id"], Instances=["i1"])["Status"], refusal(sd.get_instances_health_status, ServiceId=red["Id"], Instances=["i1", "no"]).split(":")[0])
print(refusal(sd.update_instance_custom_health_status, ServiceId=red["Id"], InstanceId="no", Status="HEALTHY").split(":")[0])
print(refusal(sd.update_instance_custom_health_status, ServiceId=cart["Id"], InstanceId="no", Status="HEALTHY").replace(cart["Id"], "ID"))
sd.register_instance(ServiceId=cart["Id"], InstanceId="x", Attributes={"url": "http://x/", "AWS_INIT_HEALTH_STATUS": "UNHEALTHY"})
print(found("web", "cart"), found("web", "Cart"), sd.discover_instances(NamespaceName="web", ServiceName="cart", HealthStatus="HEALTHY")["Instances"][0]["HealthStatus"])
print(refusal(sd.discover_instances, NamespaceName="web", ServiceName="CART"))
print(refusal(sd.discover_instances, NamespaceName="none", ServiceName="cart"))
print(refusal(sd2.discover_instances, NamespaceName="web", ServiceName="cart").split(":")[0], refusal(sd2.discover_instances, NamespaceName="web", ServiceName="cart", OwnerAccount="111111111111").split(":")[0])
`, `
i2 apps.local Red HEALTHY a
True
True
['i0', 'i2', 'i3'] ['i0', 'i1', 'i2', 'i3'] ['i1'] ['i3']
['i0', 'i2'] ['i0', 'i2', 'i3'] 2
['i0', 'i1', 'i2', 'i3'] []
[('i0', 'UNHEALTHY'), ('i1', 'UNHEALTHY'), ('i2', 'UNHEALTHY'), ('i3', 'UNHEALTHY')]
{'i1': 'UNHEALTHY'} 404 InstanceNotFound
404 InstanceNotFound
404 CustomHealthNotFound: Service ID has no HealthCheckCustomConfig
['x'] [] UNKNOWN
404 ServiceNotFound: Service CART does not exist in the namespace web
404 NamespaceNotFound: Namespace none does not exist
404 NamespaceNotFound 404 NamespaceNotFound`)
	})

	t.Run("DISC-007 the CLI discovers", func(t *testing.T) {
		out, ok := g.CLI(t, resttest.Root(account), "servicediscovery", "discover-instances", "--namespace-name", "apps.local", "--service-name", "red",
			"--health-status", "ALL", "--query", "Instances[?InstanceId=='i1'].Attributes.AWS_INSTANCE_IPV4", "--output", "text")
		if !ok || out != "10.0.1.1" {
			t.Errorf("it printed %q", out)
		}
	})
}
