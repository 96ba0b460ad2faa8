# servicediscovery
# aws servicediscovery list-namespaces
# aws servicediscovery create-http-namespace --name by-cli

http = call("CreateHttpNamespace", Name="shop", Description="of the shop", Tags=[{"Key": "team", "Value": "mesh"}])
call("CreateHttpNamespace", Name="shop")
call("CreatePrivateDnsNamespace", Name="shop.local", Vpc="vpc-1")
call("CreatePublicDnsNamespace", Name="shop.example.com")
call("GetOperation", OperationId=http["OperationId"])
call("GetOperation", OperationId="none")
call("ListOperations", Filters=[{"Name": "STATUS", "Values": ["FAIL"], "Condition": "EQ"}])
spaces = call("ListNamespaces", Filters=[{"Name": "NAME", "Values": ["shop"], "Condition": "EQ"}])
ns = spaces["Namespaces"][0]["Id"]
arn = spaces["Namespaces"][0]["Arn"]
private = call("ListNamespaces", Filters=[{"Name": "TYPE", "Values": ["DNS_PRIVATE"], "Condition": "EQ"}])["Namespaces"][0]["Id"]
public = call("ListNamespaces", Filters=[{"Name": "TYPE", "Values": ["DNS_PUBLIC"], "Condition": "EQ"}])["Namespaces"][0]["Id"]
call("GetNamespace", Id=ns)
call("GetNamespace", Id="ns-none")
call("UpdateHttpNamespace", Id=ns, Namespace={"Description": "of all shops"})
call("UpdatePrivateDnsNamespace", Id=private, Namespace={"Description": "inside"})
call("UpdatePublicDnsNamespace", Id=public, Namespace={"Description": "outside"})
call("TagResource", ResourceARN=arn, Tags=[{"Key": "stage", "Value": "test"}])
call("ListTagsForResource", ResourceARN=arn)
call("UntagResource", ResourceARN=arn, TagKeys=["stage"])

orders = call("CreateService", Name="orders", NamespaceId=ns, HealthCheckCustomConfig={"FailureThreshold": 1})["Service"]["Id"]
call("CreateService", Name="orders", NamespaceId=ns)
call("CreateService", Name="orders", NamespaceId="ns-none")
dns = call("CreateService", Name="dns", NamespaceId=private, DnsConfig={"DnsRecords": [{"Type": "A", "TTL": 10}], "RoutingPolicy": "MULTIVALUE"})["Service"]["Id"]
call("GetService", Id=orders)
call("GetService", Id="srv-none")
call("ListServices", Filters=[{"Name": "NAMESPACE_ID", "Values": [ns], "Condition": "EQ"}])
call("UpdateService", Id=dns, Service={"Description": "answers", "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 20}]}})
call("UpdateServiceAttributes", ServiceId=orders, Attributes={"owner": "mesh"})
call("GetServiceAttributes", ServiceId=orders)
call("DeleteServiceAttributes", ServiceId=orders, Attributes=["owner"])

call("RegisterInstance", ServiceId=orders, InstanceId="i-1", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "8080", "version": "1"})
call("RegisterInstance", ServiceId=orders, InstanceId="i-2", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.2", "AWS_INSTANCE_PORT": "8080", "version": "2"})
call("RegisterInstance", ServiceId="srv-none", InstanceId="i-1", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1"})
call("GetInstance", ServiceId=orders, InstanceId="i-1")
call("GetInstance", ServiceId=orders, InstanceId="none")
call("ListInstances", ServiceId=orders)
call("GetInstancesHealthStatus", ServiceId=orders)
call("UpdateInstanceCustomHealthStatus", ServiceId=orders, InstanceId="i-2", Status="UNHEALTHY")
call("DiscoverInstances", NamespaceName="shop", ServiceName="orders", QueryParameters={"version": "1"})
call("DiscoverInstances", NamespaceName="shop", ServiceName="none")
call("DiscoverInstances", NamespaceName="none", ServiceName="orders")
call("DiscoverInstancesRevision", NamespaceName="shop", ServiceName="orders")

call("DeleteService", Id=orders)
call("DeregisterInstance", ServiceId=orders, InstanceId="i-1")
call("DeregisterInstance", ServiceId=orders, InstanceId="i-2")
call("DeregisterInstance", ServiceId=orders, InstanceId="i-2")
call("DeleteNamespace", Id=ns)
call("DeleteService", Id=orders)
call("DeleteService", Id=dns)
call("DeleteNamespace", Id=ns)
call("DeleteNamespace", Id=ns)
