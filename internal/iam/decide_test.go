package iam_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// ofUsers is what scripts about policies begin with: user(NAME, policies…) makes a
// user with inline policies and returns clients that sign for it.
const ofUsers = `
root = client("iam")
mesh = client("appmesh")
A = "111111111111"

def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})

def allow(action, resource="*", **more):
    return dict({"Effect": "Allow", "Action": action, "Resource": resource}, **more)

def deny(action, resource="*", **more):
    return dict({"Effect": "Deny", "Action": action, "Resource": resource}, **more)

def user(name, *statements):
    root.create_user(UserName=name)
    if statements:
        root.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(*statements))
    k = root.create_access_key(UserName=name)["AccessKey"]
    key = (k["AccessKeyId"], k["SecretAccessKey"], "")
    return client("appmesh", key), client("iam", key)

def denied(function, **arguments):
    said = refusal(function, **arguments)
    assert said.startswith("403 AccessDenied"), said
    return said
`

// The policies that the guide shows, attached to real users whose calls they allow or
// do not.
func TestPoliciesDecide(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Python(t, resttest.Root(accountA), `
m = client("appmesh")
for name in ["apps", "other"]:
    m.create_mesh(meshName=name)
    m.create_virtual_router(meshName=name, virtualRouterName="r", spec={"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]})
    m.create_virtual_node(meshName=name, virtualNodeName="n", spec={})
`)
	run := func(id, script string) {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			s.Python(t, resttest.Root(accountA), ofUsers+script)
		})
	}
	run("IAM-001", `
bob, _ = user("bob-1")
denied(bob.list_meshes)
root.put_user_policy(UserName="bob-1", PolicyName="p", PolicyDocument=policy(allow("appmesh:*", "arn:aws:appmesh:*:%s:mesh/a*" % A), deny("appmesh:Delete*"), allow("appmesh:DeleteMesh")))
assert bob.describe_mesh(meshName="apps")["mesh"]["meshName"] == "apps"
denied(bob.describe_mesh, meshName="other")
assert denied(bob.delete_mesh, meshName="apps").endswith("with an explicit deny in an identity-based policy")
# By a group, and by a managed policy of the group.
ann, _ = user("ann-1")
root.create_group(GroupName="g-1")
root.add_user_to_group(GroupName="g-1", UserName="ann-1")
denied(ann.list_meshes)
root.attach_group_policy(GroupName="g-1", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
assert len(ann.list_meshes()["meshes"]) == 2
root.put_group_policy(GroupName="g-1", PolicyName="d", PolicyDocument=policy(deny("appmesh:ListMeshes")))
denied(ann.list_meshes)
root.remove_user_from_group(GroupName="g-1", UserName="ann-1")
denied(ann.describe_mesh, meshName="apps")
`)
	run("IAM-002/IAM-004", `
bob, _ = user("bob-2", allow("appmesh:Describe*"), allow("APPMESH:listmeshes"))
bob.describe_virtual_router(meshName="apps", virtualRouterName="r")
bob.list_meshes()
denied(bob.list_virtual_routers, meshName="apps")
ann, _ = user("ann-2", {"Effect": "Allow", "NotAction": ["appmesh:Delete*", "iam:*"], "Resource": "*"})
ann.list_virtual_routers(meshName="apps")
denied(ann.delete_virtual_router, meshName="apps", virtualRouterName="r")
# One action for each operation: with it the call is made, without it none is.
ops = ["describe_mesh", "list_meshes", "list_virtual_nodes", "list_virtual_services", "list_virtual_routers", "list_virtual_gateways", "describe_virtual_node", "describe_virtual_router"]
arguments = {"list_meshes": {}, "describe_virtual_node": {"meshName": "apps", "virtualNodeName": "n"}, "describe_virtual_router": {"meshName": "apps", "virtualRouterName": "r"}}
one, _ = user("one-2")
for op in ops:
    action = "appmesh:" + "".join(w.capitalize() for w in op.split("_"))
    root.put_user_policy(UserName="one-2", PolicyName="p", PolicyDocument=policy(allow(action)))
    for each in ops:
        call = getattr(one, each)
        if each == op:
            call(**arguments.get(each, {"meshName": "apps"}))
        else:
            denied(call, **arguments.get(each, {"meshName": "apps"}))
`)
	run("IAM-005", `
bob, _ = user("bob-5", allow("appmesh:DescribeMesh", "arn:aws:appmesh:us-east-1:%s:mesh/apps" % A))
bob.describe_mesh(meshName="apps")
denied(bob.describe_mesh, meshName="other")
ann, _ = user("ann-5", allow("appmesh:*", "arn:aws:appmesh:us-east-1:%s:mesh/*" % A))
for name in ["apps", "other"]:
    ann.describe_mesh(meshName=name)
eve, _ = user("eve-5", allow("appmesh:*", ["arn:aws:appmesh:us-east-1:222222222222:mesh/*", "arn:aws:appmesh:eu-west-1:%s:mesh/*" % A, "arn:aws-cn:appmesh:us-east-1:%s:mesh/*" % A]))
denied(eve.describe_mesh, meshName="apps")
`)
	run("IAM-009", `
sample = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:CreateMesh", "Resource": "arn:aws:appmesh:*:123456789012:CreateMesh"}]}
bob, _ = user("bob-9")
root.put_user_policy(UserName="bob-9", PolicyName="sample", PolicyDocument=json.dumps(sample))
assert root.get_user_policy(UserName="bob-9", PolicyName="sample")["PolicyDocument"] == sample
denied(bob.create_mesh, meshName="m-9")
root.put_user_policy(UserName="bob-9", PolicyName="right", PolicyDocument=policy(allow("appmesh:CreateMesh", "arn:aws:appmesh:*:%s:mesh/m-*" % A)))
bob.create_mesh(meshName="m-9")
mesh.delete_mesh(meshName="m-9")
`)
	run("IAM-012", `
bob, _ = user("bob-12", allow(["appmesh:DescribeMesh", "appmesh:ListMeshes"]))
bob.describe_mesh(meshName="apps")
bob.list_meshes()
for call, arguments in [(bob.create_mesh, {"meshName": "x"}), (bob.list_virtual_nodes, {"meshName": "apps"}), (bob.describe_virtual_node, {"meshName": "apps", "virtualNodeName": "n"}), (bob.delete_mesh, {"meshName": "other"})]:
    denied(call, **arguments)
`)
	run("IAM-015", `
bound = root.create_policy(PolicyName="bound-15", PolicyDocument=policy(allow(["appmesh:Describe*", "iam:Get*"])))["Policy"]["Arn"]
bob, bobs = user("bob-15", allow(["appmesh:*"]))
bob.list_meshes()
root.put_user_permissions_boundary(UserName="bob-15", PermissionsBoundary=bound)
bob.describe_mesh(meshName="apps")
assert denied(bob.list_meshes).endswith("because no permissions boundary allows the appmesh:ListMeshes action")
assert denied(bobs.get_user).endswith("because no identity-based policy allows the iam:GetUser action"), "a boundary gives nothing"
root.create_policy_version(PolicyArn=bound, PolicyDocument=policy(allow("*"), deny("appmesh:DescribeMesh")), SetAsDefault=True)
assert denied(bob.describe_mesh, meshName="apps").endswith("with an explicit deny in a permissions boundary")
bob.list_meshes()
root.delete_user_permissions_boundary(UserName="bob-15")
bob.describe_mesh(meshName="apps")
# Who may make users only with a boundary cannot make one without.
admin, admins = user("admin-15", allow("iam:CreateUser", Condition={"StringEquals": {"iam:PermissionsBoundary": bound}}))
denied(admins.create_user, UserName="free-15")
admins.create_user(UserName="bound-15", PermissionsBoundary=bound)
# Nor give those more who have none, or take it from who has it.
root.create_user(UserName="loose-15")
some, full = policy(allow("appmesh:*")), "arn:aws:iam::aws:policy/AdministratorAccess"
root.put_user_policy(UserName="admin-15", PolicyName="p", PolicyDocument=policy(
    allow("iam:*", Condition={"StringEquals": {"iam:PermissionsBoundary": bound}}), deny("iam:DeleteUserPermissionsBoundary", Condition={"StringEquals": {"iam:PermissionsBoundary": bound}})))
for arguments in [{"UserName": "loose-15"}, {"UserName": "admin-15"}]:
    denied(admins.put_user_policy, PolicyName="q", PolicyDocument=some, **arguments)
    denied(admins.attach_user_policy, PolicyArn=full, **arguments)
    denied(admins.put_user_permissions_boundary, PermissionsBoundary=full, **arguments)
admins.put_user_policy(UserName="bound-15", PolicyName="q", PolicyDocument=some)
admins.attach_user_policy(UserName="bound-15", PolicyArn=full)
denied(admins.delete_user_permissions_boundary, UserName="bound-15")
denied(admins.put_user_permissions_boundary, UserName="bound-15", PermissionsBoundary=full)
admins.detach_user_policy(UserName="bound-15", PolicyArn=full)
admins.delete_user_policy(UserName="bound-15", PolicyName="q")
`)
	run("IAM-016", `
bob, bobs = user("bob-16")
said = denied(bob.describe_virtual_node, meshName="apps", virtualNodeName="n")
assert said == "403 AccessDeniedException: User: arn:aws:iam::111111111111:user/bob-16 is not authorized to perform: appmesh:DescribeVirtualNode on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps/virtualNode/n because no identity-based policy allows the appmesh:DescribeVirtualNode action", said
said = denied(bobs.list_users)
assert said == "403 AccessDenied: User: arn:aws:iam::111111111111:user/bob-16 is not authorized to perform: iam:ListUsers on resource: arn:aws:iam::111111111111:user/ because no identity-based policy allows the iam:ListUsers action", said
# What does not exist looks like what does.
assert denied(bobs.get_role, RoleName="none").replace("none", "x") == denied(bobs.get_role, RoleName="x")
`)
	run("IAM-017/IAM-018", `
bob, _ = user("bob-17", allow("appmesh:CreateVirtualNode"))
bob.create_virtual_node(meshName="apps", virtualNodeName="made-17", spec={})
denied(bob.describe_mesh, meshName="apps")
denied(bob.list_meshes)
ann, _ = user("ann-17")
root.attach_user_policy(UserName="ann-17", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
ann.list_meshes()
ann.describe_virtual_node(meshName="apps", virtualNodeName="made-17")
denied(ann.delete_virtual_node, meshName="apps", virtualNodeName="made-17")
`)
	run("IAM-003", `
node = "arn:aws:appmesh:us-east-1:%s:mesh/apps" % A
def what(text, action):
    return root.simulate_custom_policy(PolicyInputList=[text], ActionNames=["appmesh:" + action], ResourceArns=[node])["EvaluationResults"][0]["EvalDecision"]
for action in ["GetMeshPolicy", "PutMeshPolicy", "DeleteMeshPolicy"]:
    assert what(policy(allow("appmesh:" + action)), action) == "allowed" and what(policy(allow("appmesh:DescribeMesh")), action) == "implicitDeny", action
`)
	run("IAM-038 perimeters", `
def unless(operator, key, value, **more):
    return deny("*", Condition={operator: {key: value}, **more})
own = [unless("StringNotEquals", "aws:ResourceAccount", A), unless("StringNotEquals", "aws:PrincipalOrgID", "o-evermeshorg"), unless("StringNotEquals", "aws:ResourceOrgID", "o-evermeshorg"),
    unless("NotIpAddress", "aws:SourceIp", ["127.0.0.0/8", "::1/128"], BoolIfExists={"aws:ViaAWSService": "false"})]
ann, annsIAM = user("ann-38", allow("*"), *own)
ann.list_meshes()
assert ann.describe_mesh(meshName="apps")["mesh"]["meshName"] == "apps"
annsIAM.get_user(UserName="ann-38")
annsIAM.get_policy(PolicyArn="arn:aws:iam::aws:policy/ReadOnlyAccess")
for n, (key, value) in enumerate([("aws:ResourceAccount", "222222222222"), ("aws:PrincipalOrgID", "o-another0000"), ("aws:ResourceOrgID", "o-another0000")]):
    out, _ = user("out-38-%d" % n, allow("*"), unless("StringNotEquals", key, value))
    denied(out.describe_mesh, meshName="apps")
    denied(out.list_meshes)
via, _ = user("via-38", allow("*"), deny("*", Condition={"Bool": {"aws:ViaAWSService": "false"}}))
denied(via.list_meshes)
for resource, want in [("arn:aws:appmesh:us-east-1:%s:mesh/apps" % A, "allowed"), ("arn:aws:appmesh:us-east-1:222222222222:mesh/apps", "explicitDeny")]:
    r = root.simulate_principal_policy(PolicySourceArn="arn:aws:iam::%s:user/ann-38" % A, ActionNames=["appmesh:DescribeMesh"], ResourceArns=[resource],
        ContextEntries=[{"ContextKeyName": "aws:SourceIp", "ContextKeyType": "ip", "ContextKeyValues": ["127.0.0.1"]}])["EvaluationResults"][0]
    assert r["EvalDecision"] == want and r.get("MissingContextValues", []) == ([] if A in resource else ["aws:resourceorgid"]), r
`)
	run("IAM-035", `
arn = "arn:aws:iam::*:user/${aws:username}"
root.create_group(GroupName="g-35")
bob, bobs = user("bob-35", 
    {"Sid": "ViewOwnUserInfo", "Effect": "Allow", "Action": ["iam:GetUserPolicy", "iam:ListGroupsForUser", "iam:ListAttachedUserPolicies", "iam:ListUserPolicies", "iam:GetUser"], "Resource": [arn]},
    {"Sid": "NavigateInConsole", "Effect": "Allow", "Action": ["iam:GetGroupPolicy", "iam:GetPolicyVersion", "iam:GetPolicy", "iam:ListAttachedGroupPolicies", "iam:ListGroupPolicies", "iam:ListPolicyVersions", "iam:ListPolicies", "iam:ListUsers"], "Resource": "*"})
root.create_user(UserName="other-35")
me = {"UserName": "bob-35"}
bobs.get_user()
assert bobs.get_user_policy(PolicyName="p", **me)["PolicyDocument"]["Statement"][0]["Resource"] == [arn]
bobs.list_groups_for_user(**me)
bobs.list_attached_user_policies(**me)
bobs.list_user_policies(**me)
bobs.list_users()
bobs.list_policies(Scope="AWS")
bobs.get_policy(PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshFullAccess")
bobs.get_policy_version(PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshFullAccess", VersionId="v6")
bobs.list_policy_versions(PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshFullAccess")
bobs.list_group_policies(GroupName="g-35")
bobs.list_attached_group_policies(GroupName="g-35")
for call in [bobs.get_user, bobs.list_user_policies, bobs.list_attached_user_policies, bobs.list_groups_for_user]:
    denied(call, UserName="other-35")
denied(bobs.create_user, UserName="more-35")
`)
	run("IAM-041", `
text = json.dumps({"Version": "2012-10-17", "Statement": [
    {"Sid": "Read", "Effect": "Allow", "Action": "appmesh:Describe*", "Resource": "*"},
    {"Sid": "NotTheOther", "Effect": "Deny", "Action": "appmesh:*", "Resource": "arn:aws:appmesh:*:*:mesh/other", "Condition": {"StringNotEquals": {"aws:username": "${aws:PrincipalTag/owner}"}}}]}, indent=2)
bound = root.create_policy(PolicyName="bound-41", PolicyDocument=policy(allow(["appmesh:DescribeMesh", "appmesh:List*"])))["Policy"]["Arn"]
root.create_user(UserName="bob-41", Path="/x/")
root.put_user_policy(UserName="bob-41", PolicyName="own", PolicyDocument=text)
root.attach_user_policy(UserName="bob-41", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
root.create_group(GroupName="g-41")
root.add_user_to_group(GroupName="g-41", UserName="bob-41")
root.put_group_policy(GroupName="g-41", PolicyName="of-group", PolicyDocument=policy(allow("appmesh:CreateMesh")))
bob = "arn:aws:iam::111111111111:user/x/bob-41"
apps, other = ["arn:aws:appmesh:us-east-1:111111111111:mesh/" + n for n in ["apps", "other"]]

def ask(action, resource, **more):
    r = root.simulate_principal_policy(PolicySourceArn=bob, ActionNames=["appmesh:" + action], ResourceArns=[resource], **more)["EvaluationResults"]
    assert len(r) == 1 and r[0]["EvalActionName"] == "appmesh:" + action and r[0]["EvalResourceName"] == resource, r
    return r[0]["EvalDecision"], [(m["SourcePolicyId"], m["SourcePolicyType"]) for m in r[0].get("MatchedStatements", [])], r[0]

decision, by, r = ask("DescribeMesh", apps)
assert decision == "allowed" and ("user_bob-41_own", "user") in by and ("arn:aws:iam::aws:policy/AWSAppMeshReadOnly", "aws-managed") in by, r
m = [x for x in r["MatchedStatements"] if x["SourcePolicyId"] == "user_bob-41_own"][0]
lines = text.split("\n")
assert lines[m["StartPosition"]["Line"] - 1].strip() == "{" and '"Read"' in lines[m["StartPosition"]["Line"]], m
assert lines[m["EndPosition"]["Line"] - 1].strip() == "},", m
decision, by, r = ask("DescribeMesh", other)
assert decision == "explicitDeny" and by == [("user_bob-41_own", "user")], r
assert r["MissingContextValues"] == ["aws:principaltag/owner"], r
assert ask("CreateMesh", apps)[:2] == ("allowed", [("group_g-41_of-group", "group")])
assert ask("DeleteMesh", apps)[:2] == ("implicitDeny", [])
assert ask("DeleteMesh", apps, PolicyInputList=[policy(allow("*"))])[:2] == ("allowed", [("PolicyInputList.1", "none")])
root.put_user_permissions_boundary(UserName="bob-41", PermissionsBoundary=bound)
decision, by, r = ask("CreateMesh", apps)
assert decision == "implicitDeny" and r["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": False}, r
assert ask("DescribeMesh", apps)[2]["PermissionsBoundaryDecisionDetail"] == {"AllowedByPermissionsBoundary": True}
pages = root.get_paginator("simulate_principal_policy").paginate(PolicySourceArn=bob, ActionNames=["appmesh:a%02d" % n for n in range(25)], ResourceArns=[apps, other], PaginationConfig={"PageSize": 7})
got = [(r["EvalActionName"], r["EvalResourceName"]) for p in pages for r in p["EvaluationResults"]]
assert got == [("appmesh:a%02d" % n, x) for n in range(25) for x in [apps, other]], got
assert refusal(root.simulate_principal_policy, PolicySourceArn=bob, ActionNames=["DescribeMesh"]).startswith("400 InvalidInput: Invalid Action name"), "action"
assert refusal(root.simulate_custom_policy, PolicyInputList=["{"], ActionNames=["a:b"]).startswith("400 InvalidInput: PolicyInputList.1: "), "policy"
# A tag of the principal is the condition's value.
root.tag_user(UserName="bob-41", Tags=[{"Key": "owner", "Value": "bob-41"}])
assert ask("DescribeMesh", other)[0] == "allowed"
`)
}

// The operator's guards bound everybody in an account, also its root, and nobody in
// another.
func TestGuardsOfAnAccount(t *testing.T) {
	t.Run("IAM-015", func(t *testing.T) {
		t.Parallel()
		s, k := serveOn(t, storetest.New(t), t.TempDir())
		guard := func(policies ...string) {
			t.Helper()
			if err := k.Guard(t.Context(), accountA, policies); err != nil {
				t.Fatal(err)
			}
		}
		within := func(script string) string {
			return `
def within(ask):
    end = time.monotonic() + 1
    while not ask():
        assert time.monotonic() < end, ask
        time.sleep(0.01)

def answer(call, **arguments):
    try:
        call(**arguments)
        return "yes"
    except exceptions.ClientError as e:
        return e.response["Error"]["Message"]
` + script
		}
		guard(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"appmesh:CreateMesh","Resource":"*"}]}`,
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["appmesh:*","iam:*User"],"Resource":"*"}]}`)
		s.Python(t, resttest.Root(accountA), within(`
iam, mesh = client("iam"), client("appmesh")
other = client("appmesh", `+resttest.Root(accountB).Text()+`)
within(lambda: answer(mesh.create_mesh, meshName="m").endswith("with an explicit deny in a service control policy"))
assert answer(mesh.list_meshes) == "yes"
assert answer(iam.create_user, UserName="u") == "yes"
assert answer(iam.create_group, GroupName="g").endswith("because no service control policy allows the iam:CreateGroup action")
assert answer(other.create_mesh, meshName="m") == "yes"
`))
		guard()
		s.Python(t, resttest.Root(accountA), within(`
mesh = client("appmesh")
within(lambda: answer(mesh.create_mesh, meshName="m") == "yes")
`))
		for account, policies := range map[string][]string{
			accountA: {"{"}, "12": nil, "999999999999": nil,
		} {
			if err := k.Guard(t.Context(), account, policies); err == nil {
				t.Errorf("account %s is guarded by %q", account, policies)
			}
		}
	})
}
