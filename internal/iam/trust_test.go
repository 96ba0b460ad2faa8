package iam_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
)

// Whom a role trusts is who had the name when it was told so, and is shown so.
func TestTrustIsInWhoHadTheName(t *testing.T) {
	t.Parallel()
	s := serve(t)
	t.Run("IAM-038", func(t *testing.T) {
		s.Python(t, resttest.Root(accountA), `
a, b = client("iam"), client("iam", key=`+resttest.Root(accountB).Text()+`)
mine, theirs = "arn:aws:iam::111111111111:", "arn:aws:iam::222222222222:"
def trust(principal):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole",
        "Condition": {"StringLike": {"aws:PrincipalArn": mine + "user/bob"}}}]}, indent=1)
bob, rob = a.create_user(UserName="bob")["User"]["UserId"], b.create_user(UserName="rob")["User"]["UserId"]
base = a.create_role(RoleName="base", AssumeRolePolicyDocument=trust("111111111111"))["Role"]["RoleId"]
names = [mine + "user/bob", theirs + "user/rob", "arn:aws:sts::111111111111:assumed-role/base/s", mine + "root"]
role = a.create_role(RoleName="r", AssumeRolePolicyDocument=trust(names))["Role"]
def told():
    statement = a.get_role(RoleName="r")["Role"]["AssumeRolePolicyDocument"]["Statement"][0]
    assert statement["Condition"] == {"StringLike": {"aws:PrincipalArn": mine + "user/bob"}}, statement
    return statement["Principal"]["AWS"]
assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["AWS"] == names == told(), told()
# Who is called otherwise is the same.
a.update_user(UserName="bob", NewUserName="bobby", NewPath="/x/")
assert told() == [mine + "user/x/bobby"] + names[1:], told()
# Who is gone is an id, also when others have the names.
a.delete_user(UserName="bobby")
b.delete_user(UserName="rob")
a.delete_role(RoleName="base")
gone = [bob, rob, base + ":s", names[3]]
assert told() == gone, told()
a.create_user(UserName="bob")
b.create_user(UserName="rob")
a.create_role(RoleName="base", AssumeRolePolicyDocument=trust("111111111111"))
assert told() == gone, told()
# As AWS, a role trusts nobody of its account who is not there.
nobody = mine + "user/nobody"
for said in (refusal(a.update_assume_role_policy, RoleName="r", PolicyDocument=trust(nobody)), refusal(a.create_role, RoleName="x", AssumeRolePolicyDocument=trust(nobody))):
    assert said == '400 MalformedPolicyDocument: Invalid principal in policy: "AWS":"%s"' % nobody, said
for number in ("999999999999", "arn:aws:iam::999999999999:root", "arn:aws:iam::999999999999:user/bob", "arn:aws:sts::999999999999:assumed-role/base/s"):
    said = refusal(a.update_assume_role_policy, RoleName="r", PolicyDocument=trust([theirs + "root", number]))
    assert said == '400 MalformedPolicyDocument: Invalid principal in policy: "AWS":"999999999999": there is no such account', said
assert a.list_roles()["Roles"][-1]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["AWS"][0] == bob
`)
	})
}
