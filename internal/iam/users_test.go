package iam_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// Users, groups and keys from the first to the last call, with the refusals that
// clients of AWS know.
func TestUsersGroupsAndKeys(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.Python(t, resttest.Root(accountA), `
iam = client("iam")
allow = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:*", "Resource": "*"}]})

root = iam.get_user()["User"]
assert root["Arn"] == "arn:aws:iam::111111111111:root" and root["UserId"] == "111111111111", root
u = iam.create_user(UserName="Bob", Path="/dev/", Tags=[{"Key": "team", "Value": "books"}])["User"]
assert u["Arn"] == "arn:aws:iam::111111111111:user/dev/Bob" and u["UserId"].startswith("AIDA") and len(u["UserId"]) == 21, u
assert u["Tags"] == [{"Key": "team", "Value": "books"}] and u["CreateDate"].tzinfo, u
# Names are one without case.
for name in ["Bob", "bob", "BOB"]:
    assert refusal(iam.create_user, UserName=name) == "409 EntityAlreadyExists: User with name %s already exists." % name
assert iam.get_user(UserName="bob")["User"]["UserName"] == "Bob"
assert refusal(iam.get_user, UserName="nobody") == "404 NoSuchEntity: The user with name nobody cannot be found."
assert refusal(iam.create_user, UserName="no/slash").startswith("400 ValidationError: "), refusal(iam.create_user, UserName="no/slash")
assert refusal(iam.create_user, UserName="x", Path="dev").startswith("400 ValidationError: "), "path"
assert refusal(iam.create_user, UserName="x", Tags=[{"Key": "a", "Value": "1"}, {"Key": "A", "Value": "2"}]).startswith("400 InvalidInput: Duplicate tag keys found."), "tags"

g = iam.create_group(GroupName="Admins")["Group"]
assert g["Arn"] == "arn:aws:iam::111111111111:group/Admins" and g["GroupId"].startswith("AGPA"), g
assert refusal(iam.create_group, GroupName="admins") == "409 EntityAlreadyExists: Group with name admins already exists."
iam.add_user_to_group(GroupName="admins", UserName="BOB")
iam.add_user_to_group(GroupName="Admins", UserName="Bob")
assert [x["UserName"] for x in iam.get_group(GroupName="Admins")["Users"]] == ["Bob"]
assert [x["GroupName"] for x in iam.list_groups_for_user(UserName="Bob")["Groups"]] == ["Admins"]
assert refusal(iam.delete_group, GroupName="Admins") == "409 DeleteConflict: Cannot delete entity, must remove users from group first."
assert refusal(iam.delete_user, UserName="Bob") == "409 DeleteConflict: Cannot delete entity, must remove user from group first."
assert refusal(iam.add_user_to_group, GroupName="none", UserName="Bob") == "404 NoSuchEntity: The group with name none cannot be found."
for n in range(9):
    iam.create_group(GroupName="g%d" % n)
    iam.add_user_to_group(GroupName="g%d" % n, UserName="Bob")
iam.create_group(GroupName="g9")
assert refusal(iam.add_user_to_group, GroupName="g9", UserName="Bob") == "409 LimitExceeded: Cannot exceed quota for GroupsPerUser: 10"

# Paging, and filters by path.
names = []
for page in iam.get_paginator("list_groups").paginate(PaginationConfig={"PageSize": 3}):
    assert len(page["Groups"]) <= 3
    names += [x["GroupName"] for x in page["Groups"]]
assert names == ["Admins"] + ["g%d" % n for n in range(10)], names
assert refusal(iam.list_groups, Marker="%%%").startswith("400 ValidationError: "), "marker"
assert [x["UserName"] for x in iam.list_users(PathPrefix="/dev/")["Users"]] == ["Bob"]
assert iam.list_users(PathPrefix="/ops/")["Users"] == []

# Keys: two at most, the secret once.
k = iam.create_access_key(UserName="Bob")["AccessKey"]
assert k["AccessKeyId"].startswith("AKIA") and len(k["AccessKeyId"]) == 20 and len(k["SecretAccessKey"]) == 40 and k["Status"] == "Active", k
k2 = iam.create_access_key(UserName="Bob")["AccessKey"]
assert refusal(iam.create_access_key, UserName="Bob") == "409 LimitExceeded: Cannot exceed quota for AccessKeysPerUser: 2"
listed = iam.list_access_keys(UserName="Bob")["AccessKeyMetadata"]
assert sorted(x["AccessKeyId"] for x in listed) == sorted([k["AccessKeyId"], k2["AccessKeyId"]]) and "SecretAccessKey" not in listed[0], listed
assert iam.get_access_key_last_used(AccessKeyId=k["AccessKeyId"])["AccessKeyLastUsed"] == {"Region": "N/A", "ServiceName": "N/A"}
bob = client("iam", (k["AccessKeyId"], k["SecretAccessKey"], ""))
said = refusal(bob.get_user)
assert said == "403 AccessDenied: User: arn:aws:iam::111111111111:user/dev/Bob is not authorized to perform: iam:GetUser on resource: arn:aws:iam::111111111111:user/dev/Bob because no identity-based policy allows the iam:GetUser action", said
iam.put_user_policy(UserName="Bob", PolicyName="Self", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iam:*", "Resource": "arn:aws:iam::*:user/dev/${aws:username}"}]}))
assert bob.get_user()["User"]["UserName"] == "Bob"
used = iam.get_access_key_last_used(AccessKeyId=k["AccessKeyId"])
assert used["UserName"] == "Bob" and used["AccessKeyLastUsed"]["ServiceName"] == "iam" and used["AccessKeyLastUsed"]["Region"] == "us-east-1", used
assert refusal(bob.get_user, UserName="nobody").startswith("403 AccessDenied: "), "it is told who exists"
# A key works again when it is made active.
iam.update_access_key(UserName="Bob", AccessKeyId=k["AccessKeyId"], Status="Inactive")
assert refusal(bob.get_user) == "403 InvalidClientTokenId: The security token included in the request is invalid.", refusal(bob.get_user)
assert [x["Status"] for x in iam.list_access_keys(UserName="Bob")["AccessKeyMetadata"] if x["AccessKeyId"] == k["AccessKeyId"]] == ["Inactive"]
iam.update_access_key(UserName="Bob", AccessKeyId=k["AccessKeyId"], Status="Active")
assert bob.get_user()["User"]["UserName"] == "Bob"
assert refusal(iam.delete_access_key, UserName="Bob", AccessKeyId="AKIA0000000000000000") == "404 NoSuchEntity: The Access Key with id AKIA0000000000000000 cannot be found."
assert refusal(iam.create_access_key).startswith("400 InvalidInput: The root's access key"), refusal(iam.create_access_key)

# Another name and path: the same user, with its keys and groups.
iam.update_user(UserName="Bob", NewUserName="Robert", NewPath="/ops/")
again = iam.get_user(UserName="robert")["User"]
assert again["UserId"] == u["UserId"] and again["Arn"] == "arn:aws:iam::111111111111:user/ops/Robert", again
assert refusal(iam.get_user, UserName="Bob").startswith("404 NoSuchEntity"), "the old name"
assert "Robert" in [x["UserName"] for x in iam.get_group(GroupName="g0")["Users"]]
said = refusal(bob.get_user)
assert "User: arn:aws:iam::111111111111:user/ops/Robert is not authorized" in said, said
iam.create_user(UserName="Carol")
assert refusal(iam.update_user, UserName="Carol", NewUserName="ROBERT") == "409 EntityAlreadyExists: User with name ROBERT already exists."

# Tags.
iam.tag_user(UserName="Robert", Tags=[{"Key": "Team", "Value": "films"}, {"Key": "x", "Value": ""}])
assert iam.list_user_tags(UserName="Robert")["Tags"] == [{"Key": "Team", "Value": "films"}, {"Key": "x", "Value": ""}], iam.list_user_tags(UserName="Robert")
iam.untag_user(UserName="Robert", TagKeys=["TEAM", "none"])
assert iam.list_user_tags(UserName="Robert")["Tags"] == [{"Key": "x", "Value": ""}]
assert refusal(iam.tag_user, UserName="Robert", Tags=[{"Key": "t%d" % n, "Value": ""} for n in range(50)]).startswith("409 LimitExceeded: "), "tags"

# Nothing that is left is in the way of the end.
for name in [x["GroupName"] for x in iam.list_groups_for_user(UserName="Robert")["Groups"]]:
    iam.remove_user_from_group(GroupName=name, UserName="Robert")
assert refusal(iam.remove_user_from_group, GroupName="g0", UserName="Robert").startswith("404 NoSuchEntity"), "twice"
assert refusal(iam.delete_user, UserName="Robert") == "409 DeleteConflict: Cannot delete entity, must delete policies first."
iam.delete_user_policy(UserName="Robert", PolicyName="self")
assert refusal(iam.delete_user, UserName="Robert") == "409 DeleteConflict: Cannot delete entity, must delete access keys first."
for x in [k, k2]:
    iam.delete_access_key(UserName="Robert", AccessKeyId=x["AccessKeyId"])
assert refusal(bob.get_user).startswith("403 InvalidClientTokenId"), "a key that was deleted"
iam.delete_user(UserName="Robert")
iam.delete_group(GroupName="Admins")
`)
}

// Roots, users, groups and their policies are of one account each: another account's
// of the same name are others, and nobody's business.
func TestPrincipalsAreDistinguishable(t *testing.T) {
	t.Run("IAM-038", func(t *testing.T) {
		t.Parallel()
		s := serve(t)
		b := resttest.Root(accountB)
		s.Python(t, resttest.Root(accountA), `
a, b = client("iam"), client("iam", `+b.Text()+`)
for c in [a, b]:
    c.create_user(UserName="ann")
    c.create_role(RoleName="ann", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": "sts:AssumeRole"}]}))
    c.create_group(GroupName="ann")
a.create_user(UserName="only-a")
ids = {c.get_user(UserName="ann")["User"]["UserId"] for c in [a, b]} | {c.get_role(RoleName="ann")["Role"]["RoleId"] for c in [a, b]} | {c.get_group(GroupName="ann")["Group"]["GroupId"] for c in [a, b]}
assert len(ids) == 6, ids
assert refusal(b.get_user, UserName="only-a").startswith("404 NoSuchEntity"), "another account's user"
assert [x["UserName"] for x in b.list_users()["Users"]] == ["ann"]
k = a.create_access_key(UserName="ann")["AccessKey"]
a.attach_user_policy(UserName="ann", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")
ann = client("iam", (k["AccessKeyId"], k["SecretAccessKey"], ""))
assert ann.get_user()["User"]["Arn"] == "arn:aws:iam::111111111111:user/ann"
# A policy of another account is none of this one.
p = b.create_policy(PolicyName="theirs", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))["Policy"]["Arn"]
for call in [ann.get_policy, ann.delete_policy]:
    assert refusal(call, PolicyArn=p).startswith("403 AccessDenied: "), refusal(call, PolicyArn=p)
assert refusal(a.attach_user_policy, UserName="ann", PolicyArn=p) == "404 NoSuchEntity: Policy %s does not exist or is not attachable." % p
`)
	})
}

// What one replica deactivates, another refuses within a second.
func TestADeactivatedKeyEndsOnEveryReplica(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	one, _ := serveOn(t, stores[0], dir)
	two, _ := serveOn(t, stores[1], dir)
	one.Python(t, resttest.Root(accountA), `
iam = client("iam")
iam.create_user(UserName="bob")
iam.attach_user_policy(UserName="bob", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
k = iam.create_access_key(UserName="bob")["AccessKey"]
there = boto3.client("appmesh", endpoint_url=sys.argv[1], aws_access_key_id=k["AccessKeyId"], aws_secret_access_key=k["SecretAccessKey"])

def within(what, ask):
    end = time.monotonic() + 1
    while not ask():
        assert time.monotonic() < end, what
        time.sleep(0.005)

def works():
    try:
        there.list_meshes()
        return True
    except exceptions.ClientError as e:
        return e.response["Error"]["Code"]

within("the key is known", lambda: works() is True)
for status, want in [("Inactive", "UnrecognizedClientException"), ("Active", True)]:
    iam.update_access_key(UserName="bob", AccessKeyId=k["AccessKeyId"], Status=status)
    within(status, lambda: works() == want)
iam.detach_user_policy(UserName="bob", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
within("the policy ends", lambda: works() == "AccessDeniedException")
iam.attach_user_policy(UserName="bob", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
within("and is back", lambda: works() is True)
iam.delete_access_key(UserName="bob", AccessKeyId=k["AccessKeyId"])
within("the key ends", lambda: works() == "UnrecognizedClientException")
`, two.URL)
}

// The same by the AWS CLI: what it prints, and how a refusal reads there.
func TestByTheCLI(t *testing.T) {
	t.Parallel()
	s := serve(t)
	root := resttest.Root(accountA)
	for _, c := range []struct {
		arguments []string
		ok        bool
		want      string
	}{
		{[]string{"create-user", "--user-name", "ann", "--tags", "Key=team,Value=books", "--query", "User.[Arn,Tags[0].Value]", "--output", "text"}, true, "arn:aws:iam::111111111111:user/ann\tbooks"},
		{[]string{"put-user-policy", "--user-name", "ann", "--policy-name", "p", "--policy-document", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:List*","Resource":"*"}]}`}, true, ""},
		{[]string{"get-user-policy", "--user-name", "ann", "--policy-name", "p", "--query", "PolicyDocument.Statement[0].Action", "--output", "text"}, true, "appmesh:List*"},
		{[]string{"delete-user", "--user-name", "ann"}, false, "An error occurred (DeleteConflict) when calling the DeleteUser operation (reached max retries: 0): Cannot delete entity, must delete policies first."},
	} {
		printed, ok := s.CLI(t, root, append([]string{"iam"}, c.arguments...)...)
		if ok != c.ok || ok && printed != c.want || !strings.Contains(printed, c.want) {
			t.Errorf("%q: %v, %q, want %q", c.arguments, ok, printed, c.want)
		}
	}
}
