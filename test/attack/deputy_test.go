package attack

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A deputy is a role of one account that another account may use. Whoever may not
// tries to be mistaken for who may.
func TestConfusedDeputies(t *testing.T) {
	t.Parallel()
	p := target(t)
	const ourRoot, theirRoot = `{"AWS":"arn:aws:iam::` + ours + `:root"}`, `{"AWS":"arn:aws:iam::` + theirs + `:root"}`
	assumes := allow("sts:AssumeRole sts:TagSession sts:SetSourceIdentity", "*")
	ann := p.user(t, p.root, "deputy-ann", assumes)
	eve := p.user(t, p.foreign, "deputy-eve", assumes)
	refused := func(t *testing.T, what string, key aws.Credentials, role string, members ...string) {
		t.Helper()
		p.assume(t, key, role, members...).refused(t, what, "AccessDenied")
	}

	t.Run("IAM-014 the external id is the one that was agreed", func(t *testing.T) {
		t.Parallel()
		role := p.role(t, p.foreign, "deputy-external", trust("sts:AssumeRole", ourRoot, when("StringEquals", "sts:ExternalId", "agreed")), allow("appmesh:ListMeshes", "*"))
		refused(t, "no external id", ann, role)
		for _, id := range []string{"other", "Agreed", "agreed.", "agree", "agreed,agreed", "=agreed", "..", "agreed:agreed"} {
			refused(t, "external id "+id, ann, role, "ExternalId", id)
		}
		a := p.assume(t, ann, role, "ExternalId", "*")
		a.refused(t, "a wildcard", "ValidationError", "AccessDenied")
		refused(t, "it as the session's tag", ann, role, "Tags.member.1.Key", "sts:ExternalId", "Tags.member.1.Value", "agreed")
		refused(t, "it as the source identity", ann, role, "SourceIdentity", "agreed")
		p.query(t, ann, "sts", "AssumeRole", "RoleArn", role, "RoleSessionName", "agreed").refused(t, "it as the session's name", "AccessDenied")
		// Its own account does not trust itself.
		refused(t, "somebody of the role's account", eve, role, "ExternalId", "agreed")
		p.assume(t, ann, role, "ExternalId", "agreed").ok(t)
	})

	t.Run("IAM-001 who trusts an account trusts no other", func(t *testing.T) {
		t.Parallel()
		role := p.role(t, p.root, "deputy-ours", trust("sts:AssumeRole", ourRoot), allow("*", "*"))
		refused(t, "a user of another account", eve, role)
		session := keyIn(t, p.assume(t, ann, role))
		p.assume(t, ann, p.role(t, p.root, "deputy-theirs", trust("sts:AssumeRole", theirRoot))).refused(t, "a role that trusts another account alone", "AccessDenied")
		// Neither does a role of another account that does not exist tell so.
		a, b := p.assume(t, eve, role), p.assume(t, eve, "arn:aws:iam::"+ours+":role/deputy-none")
		if a.code != b.code || len(a.text)-len(role) != len(b.text)-len("arn:aws:iam::"+ours+":role/deputy-none") {
			t.Errorf("it tells which roles exist: %s, %s", a.text, b.text)
		}
		for _, arn := range []string{
			"arn:aws:iam::" + ours + ":role/DEPUTY-OURS", "arn:aws-cn:iam::" + ours + ":role/deputy-ours", "arn:aws:iam:us-east-1:" + ours + ":role/deputy-ours",
			"arn:aws:iam::" + ours + ":role/x/deputy-ours", "arn:aws:iam::" + ours + ":role/deputy-*", "arn:aws:iam::" + ours + ":role//deputy-ours",
			"arn:aws:sts::" + ours + ":assumed-role/deputy-ours/attacker", "arn:aws:iam::" + ours + ":user/deputy-ann", "arn:aws:iam::" + theirs + ":role/deputy-ours",
			"arn:aws:iam::" + ours + ":role/deputy-ours ", "arn:aws:iam::" + ours + ":role/%64eputy-ours",
		} {
			if a := p.assume(t, ann, arn); a.status < 400 {
				t.Errorf("a session by %s: %s", arn, a.body)
			}
		}
		p.assume(t, p.root, role).refused(t, "a root", "AccessDenied")
		p.query(t, session, "sts", "GetSessionToken").refused(t, "a token of a session", "AccessDenied")
		p.query(t, session, "sts", "GetFederationToken", "Name", "guest").refused(t, "a guest of a session", "AccessDenied")
	})

	t.Run("IAM-014 roles are chained as each trusts the one before", func(t *testing.T) {
		t.Parallel()
		first := p.role(t, p.root, "deputy-first", trust("sts:AssumeRole", `{"AWS":"arn:aws:iam::`+ours+`:user/deputy-ann"}`), assumes)
		second := p.role(t, p.foreign, "deputy-second", trust("sts:AssumeRole", `{"AWS":"`+first+`"}`), assumes)
		third := p.role(t, p.root, "deputy-third", trust("sts:AssumeRole", `{"AWS":"`+second+`"}`))
		refused(t, "the second, without the first", ann, second)
		one := keyIn(t, p.assume(t, ann, first))
		refused(t, "the third, without the second", one, third)
		two := keyIn(t, p.assume(t, one, second))
		three := p.assume(t, two, third)
		three.ok(t)
		// Who calls itself what the chain's session is called is not it.
		refused(t, "a session of the same name", ann, second)
		p.mesh(t, two, "GET", "/v20190125/meshes", "").refused(t, "what no role of the chain allows", "AccessDeniedException")
		// A source identity stays along the chain.
		p.query(t, p.root, "iam", "UpdateAssumeRolePolicy", "RoleName", "deputy-first", "PolicyDocument",
			policy(`{"Effect":"Allow","Action":["sts:AssumeRole","sts:SetSourceIdentity"],"Principal":{"AWS":"arn:aws:iam::`+ours+`:user/deputy-ann"}}`)).ok(t)
		known := keyIn(t, p.assume(t, ann, first, "SourceIdentity", "ann"))
		if a := p.assume(t, known, second, "SourceIdentity", "eve"); a.status < 400 {
			t.Errorf("the source identity was changed: %s", a.body)
		}
	})

	t.Run("IAM-028 a service's role is nobody's", func(t *testing.T) {
		t.Parallel()
		for _, service := range []string{"ec2.amazonaws.com", "ecs-tasks.amazonaws.com", "appmesh.amazonaws.com", "pods.eks.amazonaws.com"} {
			role := p.role(t, p.root, "deputy-"+service, trust("sts:AssumeRole", `{"Service":"`+service+`"}`), allow("*", "*"))
			refused(t, "a user for "+service, ann, role)
			impostor := p.user(t, p.root, service, assumes) // of the service's name
			refused(t, "a user who is called "+service, impostor, role)
			a := p.query(t, impostor, "sts", "AssumeRole", "RoleArn", role, "RoleSessionName", service)
			a.refused(t, "a session that is called "+service, "AccessDenied")
		}
		p.mesh(t, p.root, "PUT", "/v20190125/meshes", `{"meshName":"deputy-mesh"}`).ok(t)
		refused(t, "the service-linked role", ann, "arn:aws:iam::"+ours+":role/aws-service-role/appmesh.amazonaws.com/AWSServiceRoleForAppMesh")
		if a := p.query(t, p.root, "iam", "UpdateAssumeRolePolicy", "RoleName", "AWSServiceRoleForAppMesh", "PolicyDocument", trust("sts:AssumeRole", ourRoot)); a.status < 400 {
			t.Errorf("the service-linked role trusts whom it is told: %s", a.body)
		}
	})

	t.Run("IAM-038 trust is in one, not in who has the name later", func(t *testing.T) {
		t.Parallel()
		p.user(t, p.root, "deputy-gone")
		role := p.role(t, p.root, "deputy-personal", trust("sts:AssumeRole", `{"AWS":"arn:aws:iam::`+ours+`:user/deputy-gone"}`), allow("*", "*"))
		keys := p.query(t, p.root, "iam", "ListAccessKeys", "UserName", "deputy-gone").get(t, "AccessKeyId")
		p.query(t, p.root, "iam", "DeleteAccessKey", "UserName", "deputy-gone", "AccessKeyId", keys).ok(t)
		p.query(t, p.root, "iam", "DeleteUser", "UserName", "deputy-gone").ok(t)
		again := p.user(t, p.root, "deputy-gone")
		refused(t, "another user of the name", again, role)
	})

	t.Run("IAM-001 principals have no wildcards within", func(t *testing.T) {
		t.Parallel()
		for _, principal := range []string{`{"AWS":"arn:aws:iam::` + ours + `:user/*"}`, `{"AWS":"arn:aws:iam::*:root"}`, `{"AWS":"1111*"}`, `{"AWS":"arn:aws:iam::` + theirs + `:user/deputy-?ve"}`} {
			a := p.query(t, p.root, "iam", "CreateRole", "RoleName", "deputy-wild", "AssumeRolePolicyDocument", trust("sts:AssumeRole", principal))
			if a.status < 400 {
				refused(t, principal+" as somebody", eve, "arn:aws:iam::"+ours+":role/deputy-wild")
				p.query(t, p.root, "iam", "DeleteRole", "RoleName", "deputy-wild").ok(t)
			}
		}
	})

	t.Run("IAM-039 all, under a condition, are who meets it", func(t *testing.T) {
		t.Parallel()
		role := p.role(t, p.root, "deputy-all", trust("sts:AssumeRole", `"*"`, when("StringEquals", "aws:PrincipalAccount", ours)), allow("*", "*"))
		refused(t, "another account", eve, role)
		p.assume(t, eve, role, "Tags.member.1.Key", "aws:PrincipalAccount", "Tags.member.1.Value", ours).refused(t, "another account that says so in a tag", "InvalidParameterValue")
		p.assume(t, ann, role).ok(t)
	})
}
