package iam_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
)

// AWS's managed policies, as the guide names them.
func TestAWSManagedPolicies(t *testing.T) {
	t.Parallel()
	s := serve(t)
	run := func(id, script string) {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			s.Python(t, resttest.Root(accountA), `
iam = client("iam")
AWS = "arn:aws:iam::aws:policy/"

def document(name):
    p = iam.get_policy(PolicyArn=AWS + name)["Policy"]
    return p, iam.get_policy_version(PolicyArn=p["Arn"], VersionId=p["DefaultVersionId"])["PolicyVersion"]["Document"]["Statement"]

def what(action, resource="*", keys=(), **policy):
    texts = [json.dumps({"Version": "2012-10-17", "Statement": document(n)[1]}) for n in policy["names"]]
    r = iam.simulate_custom_policy(PolicyInputList=texts, ActionNames=[action], ResourceArns=[resource],
        ContextEntries=[{"ContextKeyName": k, "ContextKeyType": "string", "ContextKeyValues": [v]} for k, v in keys])
    return r["EvaluationResults"][0]["EvalDecision"]
`+script)
		})
	}
	run("IAM-019", `
p, d = document("AWSAppMeshFullAccess")
assert p["DefaultVersionId"] == "v6" and p["IsAttachable"], p
assert d[0] == {"Action": ["appmesh:*"], "Resource": "*", "Effect": "Allow"}, d
for action in ["CreateMesh", "TagResource", "UntagResource", "StreamAggregatedResources", "PutMeshPolicy"]:
    assert what("appmesh:" + action, names=["AWSAppMeshFullAccess"]) == "allowed", action
`)
	run("IAM-020", `
_, d = document("AWSAppMeshFullAccess")
actions = [a for x in d for a in x["Action"]]
assert actions == ["appmesh:*", "iam:CreateServiceLinkedRole", "cloudformation:CreateStack", "cloudformation:DeleteStack", "cloudformation:DescribeStack*", "cloudformation:UpdateStack",
    "acm:ListCertificates", "acm:DescribeCertificate", "acm-pca:DescribeCertificateAuthority", "acm-pca:ListCertificateAuthorities",
    "servicediscovery:ListNamespaces", "servicediscovery:ListServices", "servicediscovery:ListInstances"], actions
role = "arn:aws:iam::111111111111:role/aws-service-role/appmesh.amazonaws.com/AWSServiceRoleForAppMesh"
for service, want in [("appmesh.amazonaws.com", "allowed"), ("ecs.amazonaws.com", "implicitDeny")]:
    assert what("iam:CreateServiceLinkedRole", role, [("iam:AWSServiceName", service)], names=["AWSAppMeshFullAccess"]) == want, service
assert what("cloudformation:CreateStack", "arn:aws:cloudformation:us-east-1:111111111111:stack/AWSAppMesh-GettingStarted-1/x", names=["AWSAppMeshFullAccess"]) == "allowed"
assert what("cloudformation:CreateStack", "arn:aws:cloudformation:us-east-1:111111111111:stack/Other/x", names=["AWSAppMeshFullAccess"]) == "implicitDeny"
`)
	run("IAM-021", `
_, d = document("AWSAppMeshReadOnly")
assert d[0]["Action"] == ["appmesh:Describe*", "appmesh:List*"] and d[1]["Action"] == ["cloudformation:DescribeStack*"], d
for action, want in [("appmesh:DescribeMesh", "allowed"), ("appmesh:ListRoutes", "allowed"), ("appmesh:CreateMesh", "implicitDeny"), ("servicediscovery:ListInstances", "allowed"), ("acm:DescribeCertificate", "allowed"), ("appmesh:StreamAggregatedResources", "implicitDeny")]:
    assert what(action, names=["AWSAppMeshReadOnly"]) == want, action
`)
	run("IAM-022/IAM-023", `
assert document("AWSAppMeshEnvoyAccess")[1] == [{"Effect": "Allow", "Action": ["appmesh:StreamAggregatedResources"], "Resource": "*"}]
assert document("AWSAppMeshPreviewEnvoyAccess")[1] == [{"Effect": "Allow", "Action": ["appmesh-preview:StreamAggregatedResources"], "Resource": "*"}]
node = "arn:aws:appmesh:us-east-1:111111111111:mesh/m/virtualNode/n"
for name, action, want in [("AWSAppMeshEnvoyAccess", "appmesh", "allowed"), ("AWSAppMeshEnvoyAccess", "appmesh-preview", "implicitDeny"), ("AWSAppMeshPreviewEnvoyAccess", "appmesh-preview", "allowed"), ("AWSAppMeshPreviewEnvoyAccess", "appmesh", "implicitDeny")]:
    assert what(action + ":StreamAggregatedResources", node, names=[name]) == want, (name, action)
`)
	run("IAM-024/IAM-025", `
p, d = document("aws-service-role/AWSAppMeshServiceRolePolicy")
assert not p["IsAttachable"] and p["Path"] == "/aws-service-role/", p
assert {x["Sid"]: x["Action"] for x in d} == {"CloudMapServiceDiscovery": ["servicediscovery:DiscoverInstances", "servicediscovery:DiscoverInstancesRevision"], "ACMCertificateVerification": ["acm:DescribeCertificate"]}, d
p, d = document("aws-service-role/AWSAppMeshPreviewServiceRolePolicy")
assert sorted(a for x in d for a in x["Action"]) == ["acm:DescribeCertificate", "servicediscovery:DiscoverInstances"], d
iam.create_user(UserName="linked")
for name in ["AWSAppMeshServiceRolePolicy", "AWSAppMeshPreviewServiceRolePolicy"]:
    said = refusal(iam.attach_user_policy, UserName="linked", PolicyArn=AWS + "aws-service-role/" + name)
    assert said == "400 PolicyNotAttachable: Cannot attach a Service Role Policy to a Customer Role.", said
`)
	run("IAM-026", `
names = {p["PolicyName"]: p for page in iam.get_paginator("list_policies").paginate(Scope="AWS", PaginationConfig={"PageSize": 7}) for p in page["Policies"]}
for name in ["AWSAppMeshFullAccess", "AWSAppMeshReadOnly", "AWSAppMeshEnvoyAccess", "AWSAppMeshPreviewEnvoyAccess", "AWSAppMeshServiceRolePolicy", "AWSAppMeshPreviewServiceRolePolicy", "AdministratorAccess", "ReadOnlyAccess", "IAMFullAccess"]:
    assert name in names, name
iam.create_role(RoleName="builtin", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}))
iam.create_user(UserName="builtin")
iam.create_group(GroupName="builtin")
arn = AWS + "AWSAppMeshEnvoyAccess"
for attach, detach, kind in [(iam.attach_role_policy, iam.detach_role_policy, "RoleName"), (iam.attach_user_policy, iam.detach_user_policy, "UserName"), (iam.attach_group_policy, iam.detach_group_policy, "GroupName")]:
    attach(PolicyArn=arn, **{kind: "builtin"})
entities = iam.list_entities_for_policy(PolicyArn=arn)
assert [len(entities[x]) for x in ["PolicyUsers", "PolicyGroups", "PolicyRoles"]] == [1, 1, 1], entities
assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 3
doc = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
for call, more in [(iam.create_policy_version, {"PolicyDocument": doc}), (iam.delete_policy, {}), (iam.set_default_policy_version, {"VersionId": "v1"}), (iam.delete_policy_version, {"VersionId": "v1"}), (iam.tag_policy, {"Tags": [{"Key": "a", "Value": "b"}]})]:
    assert refusal(call, PolicyArn=arn, **more) == "403 AccessDenied: Policy is outside your own account.", refusal(call, PolicyArn=arn, **more)
assert refusal(iam.get_policy, PolicyArn=AWS + "NoSuchPolicy") == "404 NoSuchEntity: Policy arn:aws:iam::aws:policy/NoSuchPolicy was not found."
assert refusal(iam.attach_user_policy, UserName="builtin", PolicyArn=AWS + "NoSuchPolicy") == "404 NoSuchEntity: Policy arn:aws:iam::aws:policy/NoSuchPolicy does not exist or is not attachable."
`)
	run("policies of Evermesh's own commands", `
reads = ["ListProxies", "DescribeRollout", "Explain", "Plan", "DescribeMeshSettings"]
for name, action, want in [("EvermeshFullAccess", "appmesh:CreateMesh", "allowed"), ("EvermeshFullAccess", "evermesh:UpdateMeshSettings", "allowed"), ("EvermeshFullAccess", "iam:CreateUser", "implicitDeny"),
        ("EvermeshReadOnly", "appmesh:DescribeMesh", "allowed"), ("EvermeshReadOnly", "appmesh:CreateMesh", "implicitDeny"), ("EvermeshReadOnly", "evermesh:UpdateMeshSettings", "implicitDeny"),
        ("EvermeshReadOnly", "appmesh:StreamAggregatedResources", "implicitDeny"), ("AWSAppMeshFullAccess", "evermesh:ListProxies", "implicitDeny")]:
    assert what(action, names=[name]) == want, (name, action)
for action in reads:
    for name in ["EvermeshFullAccess", "EvermeshReadOnly"]:
        assert what("evermesh:" + action, names=[name]) == "allowed", (name, action)
iam.create_user(UserName="operator")
iam.attach_user_policy(UserName="operator", PolicyArn=AWS + "EvermeshFullAccess")
`)
	run("IAM-027", `
for name, action, want in [("AWSCloudMapFullAccess", "servicediscovery:RegisterInstance", "allowed"), ("AmazonEC2ContainerRegistryReadOnly", "ecr:GetAuthorizationToken", "allowed"), ("AmazonEC2ContainerRegistryReadOnly", "appmesh:DescribeMesh", "implicitDeny"), ("AWSResourceAccessManagerFullAccess", "ram:CreateResourceShare", "allowed")]:
    assert what(action, names=[name]) == want, (name, action)
`)
}

// Customer managed policies, with their versions.
func TestCustomerManagedPolicies(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Python(t, resttest.Root(accountA), `
iam = client("iam")

def doc(action="appmesh:ListMeshes", resource="*", **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [dict({"Effect": "Allow", "Action": action, "Resource": resource}, **more)]})

p = iam.create_policy(PolicyName="Mesh", Path="/apps/", PolicyDocument=doc(), Description="what it is for", Tags=[{"Key": "a", "Value": "1"}])["Policy"]
arn = p["Arn"]
assert arn == "arn:aws:iam::111111111111:policy/apps/Mesh" and iam.get_policy(PolicyArn=arn)["Policy"]["Description"] == "what it is for", p
assert refusal(iam.create_policy, PolicyName="MESH", PolicyDocument=doc()) == "409 EntityAlreadyExists: A policy called MESH already exists. Duplicate names are not allowed."
for wrong in ["arn:aws:iam::111111111111:policy/Mesh", "arn:aws:iam::111111111111:policy/apps/mesh", "arn:aws:iam::111111111111:policy/other/Mesh"]:
    assert refusal(iam.get_policy, PolicyArn=wrong) == "404 NoSuchEntity: Policy %s was not found." % wrong
assert refusal(iam.get_policy, PolicyArn="no-arn-of-anything-at-all") == "400 InvalidInput: ARN no-arn-of-anything-at-all is not valid."
# What is no policy.
for text in ["{", "[]", "{}", json.dumps({"Version": "2012-10-17", "Statement": []}), doc("appmesh"), doc(Principal="*"), doc(Condition={"NoSuch": {"a": "b"}}),
        json.dumps({"Version": "2008-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}),
        json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Maybe", "Action": "*", "Resource": "*"}]}),
        json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*"}]})]:
    said = refusal(iam.create_policy, PolicyName="wrong", PolicyDocument=text)
    assert said.startswith("400 MalformedPolicyDocument: "), (text, said)
assert refusal(iam.create_policy, PolicyName="big", PolicyDocument=doc(["appmesh:%030d" % n for n in range(200)])) == "409 LimitExceeded: Cannot exceed quota for PolicySize: 6144"
iam.create_policy(PolicyName="spaces", PolicyDocument=doc() + " " * 7000)

for n in range(2, 6):
    v = iam.create_policy_version(PolicyArn=arn, PolicyDocument=doc("appmesh:v%d" % n), SetAsDefault=n == 3)["PolicyVersion"]
    assert v["VersionId"] == "v%d" % n and v["IsDefaultVersion"] == (n == 3), v
assert refusal(iam.create_policy_version, PolicyArn=arn, PolicyDocument=doc()).startswith("409 LimitExceeded: A managed policy can have up to 5 versions."), "versions"
assert iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"] == "v3"
assert refusal(iam.delete_policy_version, PolicyArn=arn, VersionId="v3") == "409 DeleteConflict: Cannot delete the default version of a policy."
iam.delete_policy_version(PolicyArn=arn, VersionId="v5")
assert iam.create_policy_version(PolicyArn=arn, PolicyDocument=doc("appmesh:v6"))["PolicyVersion"]["VersionId"] == "v6", "a number is not used again"
iam.set_default_policy_version(PolicyArn=arn, VersionId="v6")
assert [v["VersionId"] for v in iam.list_policy_versions(PolicyArn=arn)["Versions"]] == ["v1", "v2", "v3", "v4", "v6"]
assert refusal(iam.get_policy_version, PolicyArn=arn, VersionId="v5").startswith("404 NoSuchEntity: "), "v5"

iam.create_group(GroupName="g")
iam.attach_group_policy(GroupName="g", PolicyArn=arn)
iam.attach_group_policy(GroupName="g", PolicyArn=arn)
assert refusal(iam.delete_policy, PolicyArn=arn) == "409 DeleteConflict: Cannot delete a policy attached to entities."
assert [x["PolicyArn"] for x in iam.list_attached_group_policies(GroupName="g")["AttachedPolicies"]] == [arn]
assert iam.list_attached_group_policies(GroupName="g", PathPrefix="/other/")["AttachedPolicies"] == []
assert [x["Arn"] for x in iam.list_policies(Scope="Local", OnlyAttached=True)["Policies"]] == [arn]
assert [x["Arn"] for x in iam.list_policies(Scope="Local", PathPrefix="/apps/")["Policies"]] == [arn]
iam.detach_group_policy(GroupName="g", PolicyArn=arn)
assert refusal(iam.detach_group_policy, GroupName="g", PolicyArn=arn) == "404 NoSuchEntity: Policy %s was not found." % arn
for n in range(10):
    iam.attach_group_policy(GroupName="g", PolicyArn=iam.create_policy(PolicyName="p%d" % n, PolicyDocument=doc())["Policy"]["Arn"])
assert refusal(iam.attach_group_policy, GroupName="g", PolicyArn=arn) == "409 LimitExceeded: Cannot exceed quota for PoliciesPerGroup: 10"
assert refusal(iam.delete_group, GroupName="g") == "409 DeleteConflict: Cannot delete entity, must detach all policies first."
assert refusal(iam.delete_policy, PolicyArn=arn).startswith("409 DeleteConflict: This policy has more than one version."), "versions"
for v in ["v1", "v2", "v3", "v4"]:
    iam.delete_policy_version(PolicyArn=arn, VersionId=v)
iam.delete_policy(PolicyArn=arn)

# Inline policies.
iam.create_user(UserName="u")
iam.put_user_policy(UserName="u", PolicyName="One", PolicyDocument=doc())
iam.put_user_policy(UserName="u", PolicyName="one", PolicyDocument=doc("appmesh:DescribeMesh"))
assert iam.list_user_policies(UserName="u")["PolicyNames"] == ["one"]
assert iam.get_user_policy(UserName="u", PolicyName="ONE")["PolicyDocument"]["Statement"][0]["Action"] == "appmesh:DescribeMesh"
assert refusal(iam.get_user_policy, UserName="u", PolicyName="two") == "404 NoSuchEntity: The user policy with name two cannot be found."
assert refusal(iam.put_user_policy, UserName="u", PolicyName="big", PolicyDocument=doc(["appmesh:%030d" % n for n in range(60)])) == "409 LimitExceeded: Maximum policy size of 2048 bytes exceeded for user u"
assert iam.list_user_policies(UserName="u")["PolicyNames"] == ["one"]

# Boundaries.
bound = iam.create_policy(PolicyName="bound", PolicyDocument=doc("appmesh:List*"))["Policy"]["Arn"]
iam.put_user_permissions_boundary(UserName="u", PermissionsBoundary=bound)
assert iam.get_user(UserName="u")["User"]["PermissionsBoundary"] == {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": bound}
assert refusal(iam.delete_policy, PolicyArn=bound) == "409 DeleteConflict: Cannot delete a policy attached to entities."
assert iam.get_policy(PolicyArn=bound)["Policy"]["PermissionsBoundaryUsageCount"] == 1
assert iam.list_entities_for_policy(PolicyArn=bound, PolicyUsageFilter="PermissionsPolicy")["PolicyUsers"] == []
iam.delete_user_permissions_boundary(UserName="u")
assert refusal(iam.delete_user_permissions_boundary, UserName="u").startswith("404 NoSuchEntity"), "no boundary"
iam.delete_policy(PolicyArn=bound)
assert refusal(iam.put_user_permissions_boundary, UserName="u", PermissionsBoundary=bound).startswith("404 NoSuchEntity"), "a boundary that is not there"
`)
}

// Roles and OIDC providers.
func TestRolesAndProviders(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Python(t, resttest.Root(accountA), `
iam = client("iam")

def trust(principal={"Service": "ec2.amazonaws.com"}, action="sts:AssumeRole", **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [dict({"Effect": "Allow", "Principal": principal, "Action": action}, **more)]})

r = iam.create_role(RoleName="Node", Path="/mesh/", AssumeRolePolicyDocument=trust(), MaxSessionDuration=7200, Description="d", Tags=[{"Key": "k", "Value": "v"}])["Role"]
assert r["Arn"] == "arn:aws:iam::111111111111:role/mesh/Node" and r["MaxSessionDuration"] == 7200 and r["Tags"] == [{"Key": "k", "Value": "v"}], r
assert refusal(iam.create_role, RoleName="node", AssumeRolePolicyDocument=trust()) == "409 EntityAlreadyExists: Role with name node already exists."
for text in ["{", trust(Resource="*"), json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}), trust({"AWS": "nobody"}), trust(action="appmesh:CreateMesh")]:
    said = refusal(iam.create_role, RoleName="wrong", AssumeRolePolicyDocument=text)
    assert said.startswith("400 MalformedPolicyDocument: "), (text, said)
assert refusal(iam.create_role, RoleName="wrong", AssumeRolePolicyDocument=trust(), MaxSessionDuration=60).startswith("400 ValidationError: "), "a session of a minute"
assert refusal(iam.create_role, RoleName="wrong", Path="/aws-service-role/x/", AssumeRolePolicyDocument=trust()).startswith("400 InvalidInput: "), "path"
iam.update_role(RoleName="NODE", Description="other", MaxSessionDuration=3600)
iam.update_assume_role_policy(RoleName="Node", PolicyDocument=trust({"Service": ["ecs-tasks.amazonaws.com"]}))
got = iam.get_role(RoleName="Node")["Role"]
assert got["Description"] == "other" and got["MaxSessionDuration"] == 3600 and got["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": ["ecs-tasks.amazonaws.com"]}, got
assert iam.update_role_description(RoleName="Node", Description="third")["Role"]["Description"] == "third"
iam.tag_role(RoleName="Node", Tags=[{"Key": "K", "Value": "w"}])
assert iam.list_role_tags(RoleName="Node")["Tags"] == [{"Key": "K", "Value": "w"}]
iam.untag_role(RoleName="Node", TagKeys=["k"])
assert iam.list_role_tags(RoleName="Node")["Tags"] == []
assert [x["RoleName"] for x in iam.list_roles(PathPrefix="/mesh/")["Roles"]] == ["Node"]
old = r["RoleId"]
iam.delete_role(RoleName="Node")
assert iam.create_role(RoleName="Node", AssumeRolePolicyDocument=trust())["Role"]["RoleId"] != old, "an id is used again"

url = "https://oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
arn = iam.create_open_id_connect_provider(Url=url, ClientIDList=["sts.amazonaws.com"], ThumbprintList=["9e99a48a9960b14926bb7f3b02e22da2b0ab7280"])["OpenIDConnectProviderArn"]
assert arn == "arn:aws:iam::111111111111:oidc-provider/" + url[8:], arn
assert refusal(iam.create_open_id_connect_provider, Url=url) == "409 EntityAlreadyExists: Provider with url %s already exists." % url
for wrong in ["http://example.com", "https://", "example.com", "https://example.com/?a=b", "https://user@example.com"]:
    assert refusal(iam.create_open_id_connect_provider, Url=wrong).startswith("400 ValidationError: "), wrong
iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID="appmesh")
iam.remove_client_id_from_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID="sts.amazonaws.com")
iam.update_open_id_connect_provider_thumbprint(OpenIDConnectProviderArn=arn, ThumbprintList=["0" * 40])
got = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=arn)
assert got["Url"] == url[8:] and got["ClientIDList"] == ["appmesh"] and got["ThumbprintList"] == ["0" * 40], got
assert [x["Arn"] for x in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]] == [arn]
def tags(of=arn):
    return {t["Key"]: t["Value"] for page in [iam.list_open_id_connect_provider_tags(OpenIDConnectProviderArn=of)] for t in page["Tags"]}
CLUSTER = "evermesh:eks-cluster"
iam.tag_open_id_connect_provider(OpenIDConnectProviderArn=arn, Tags=[{"Key": CLUSTER, "Value": "prod"}, {"Key": "team", "Value": "a"}])
assert tags() == {CLUSTER: "prod", "team": "a"}, tags()
iam.tag_open_id_connect_provider(OpenIDConnectProviderArn=arn, Tags=[{"Key": "Team", "Value": "b"}])
iam.untag_open_id_connect_provider(OpenIDConnectProviderArn=arn, TagKeys=["none"])
second = iam.create_open_id_connect_provider(Url="https://oidc.example.com/second")["OpenIDConnectProviderArn"]
assert refusal(iam.tag_open_id_connect_provider, OpenIDConnectProviderArn=second, Tags=[{"Key": CLUSTER, "Value": "prod"}]).startswith("409 EntityAlreadyExists: The cluster prod "), "two providers of a cluster"
assert tags(second) == {}, tags(second)
iam.untag_open_id_connect_provider(OpenIDConnectProviderArn=arn, TagKeys=[CLUSTER])
iam.tag_open_id_connect_provider(OpenIDConnectProviderArn=second, Tags=[{"Key": CLUSTER, "Value": "prod"}])
assert tags() == {"Team": "b"} and tags(second) == {CLUSTER: "prod"}, (tags(), tags(second))
assert refusal(iam.tag_open_id_connect_provider, OpenIDConnectProviderArn=arn + "x", Tags=[]).startswith("404 NoSuchEntity: "), "a provider that is not there"
iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=second)
iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=arn)
assert refusal(iam.get_open_id_connect_provider, OpenIDConnectProviderArn=arn) == "404 NoSuchEntity: OpenIDConnect Provider not found for arn " + arn
`)
}

// The role that App Mesh has in an account.
func TestServiceLinkedRole(t *testing.T) {
	t.Parallel()
	const prelude = `
iam, mesh = client("iam"), client("appmesh")
NAME = "AWSServiceRoleForAppMesh"

def task(name=NAME):
    return iam.get_service_linked_role_deletion_status(DeletionTaskId=iam.delete_service_linked_role(RoleName=name)["DeletionTaskId"])
`
	t.Run("IAM-028", func(t *testing.T) {
		t.Parallel()
		s := serve(t)
		s.Python(t, resttest.Root(accountA), prelude+`
assert refusal(iam.get_role, RoleName=NAME).startswith("404 NoSuchEntity"), "before the first mesh"
mesh.create_mesh(meshName="apps")
r = iam.get_role(RoleName=NAME)["Role"]
assert r["Arn"] == "arn:aws:iam::111111111111:role/aws-service-role/appmesh.amazonaws.com/" + NAME, r
assert r["AssumeRolePolicyDocument"]["Statement"] == [{"Effect": "Allow", "Principal": {"Service": "appmesh.amazonaws.com"}, "Action": "sts:AssumeRole"}], r
assert iam.list_attached_role_policies(RoleName=NAME)["AttachedPolicies"] == [{"PolicyName": "AWSAppMeshServiceRolePolicy", "PolicyArn": "arn:aws:iam::aws:policy/aws-service-role/AWSAppMeshServiceRolePolicy"}]
# Who may not make the role makes a mesh all the same.
b = client("iam", `+resttest.Root(accountB).Text()+`)
b.create_user(UserName="bob")
b.put_user_policy(UserName="bob", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:*", "Resource": "*"}]}))
k = b.create_access_key(UserName="bob")["AccessKey"]
bob = client("appmesh", (k["AccessKeyId"], k["SecretAccessKey"], ""))
assert bob.create_mesh(meshName="apps")["mesh"]["status"]["status"] == "ACTIVE"
assert refusal(b.get_role, RoleName=NAME).startswith("404 NoSuchEntity"), "made without permission"
b.attach_user_policy(UserName="bob", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshFullAccess")
bob.create_mesh(meshName="more")
assert b.get_role(RoleName=NAME)["Role"]["RoleId"] != r["RoleId"]
`)
	})
	t.Run("IAM-029", func(t *testing.T) {
		t.Parallel()
		s := serve(t)
		s.Python(t, resttest.Root(accountA), prelude+`
r = iam.create_service_linked_role(AWSServiceName="appmesh.amazonaws.com", Description="first")["Role"]
assert r["RoleName"] == NAME and r["Description"] == "first", r
assert refusal(iam.create_service_linked_role, AWSServiceName="appmesh.amazonaws.com").startswith("400 InvalidInput: Service role name AWSServiceRoleForAppMesh has been taken"), "twice"
assert refusal(iam.create_service_linked_role, AWSServiceName="ecs.amazonaws.com").startswith("400 InvalidInput: "), "a service that is not here"
assert refusal(iam.create_service_linked_role, AWSServiceName="appmesh.amazonaws.com", CustomSuffix="x").startswith("400 InvalidInput: Custom suffix"), "suffix"
iam.update_role(RoleName=NAME, Description="second")
assert iam.update_role_description(RoleName=NAME, Description="third")["Role"]["Description"] == "third"
doc = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
for call, more in [(iam.put_role_policy, {"PolicyName": "p", "PolicyDocument": doc}), (iam.attach_role_policy, {"PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}),
        (iam.detach_role_policy, {"PolicyArn": "arn:aws:iam::aws:policy/aws-service-role/AWSAppMeshServiceRolePolicy"}), (iam.delete_role, {}),
        (iam.update_assume_role_policy, {"PolicyDocument": doc}), (iam.tag_role, {"Tags": [{"Key": "a", "Value": "b"}]}), (iam.update_role, {"MaxSessionDuration": 7200}),
        (iam.put_role_permissions_boundary, {"PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"})]:
    said = refusal(call, RoleName=NAME, **more)
    assert said == "400 UnmodifiableEntity: Cannot perform the operation on the protected role 'AWSServiceRoleForAppMesh' - this role is only modifiable by AWS", said
`)
	})
	t.Run("IAM-030/IAM-040", func(t *testing.T) {
		t.Parallel()
		s := serve(t)
		s.Python(t, resttest.Root(accountA), prelude+`
mesh.create_mesh(meshName="apps")
mesh.create_virtual_node(meshName="apps", virtualNodeName="n", spec={})
first = iam.get_role(RoleName=NAME)["Role"]["RoleId"]
got = task()
assert got["Status"] == "FAILED" and got["Reason"]["RoleUsageList"] == [{"Resources": ["appmesh.amazonaws.com"]}], got
assert iam.get_role(RoleName=NAME)["Role"]["RoleId"] == first, "deleted while it is in use"
mesh.delete_virtual_node(meshName="apps", virtualNodeName="n")
assert task()["Status"] == "FAILED"
mesh.delete_mesh(meshName="apps")
made = iam.delete_service_linked_role(RoleName=NAME)["DeletionTaskId"]
assert iam.get_service_linked_role_deletion_status(DeletionTaskId=made)["Status"] == "SUCCEEDED"
other = client("iam", `+resttest.Root(accountB).Text()+`)
assert refusal(other.get_service_linked_role_deletion_status, DeletionTaskId=made).startswith("404 NoSuchEntity"), "another account's task"
for wrong in [made + "x", made[:-1], "task/aws-service-role/appmesh.amazonaws.com/" + NAME + "/AROAEXAMPLE-1", "task/aws-service-role/appmesh.amazonaws.com/none/" + first]:
    assert refusal(iam.get_service_linked_role_deletion_status, DeletionTaskId=wrong) == "404 NoSuchEntity: The deletion task with id %s cannot be found." % wrong, wrong
assert refusal(iam.get_role, RoleName=NAME).startswith("404 NoSuchEntity"), "after its end"
mesh.create_mesh(meshName="again")
assert iam.get_role(RoleName=NAME)["Role"]["RoleId"] != first
assert refusal(iam.get_service_linked_role_deletion_status, DeletionTaskId="task/none").startswith("404 NoSuchEntity"), "a task that is not there"
`)
	})
}
