package attack

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const administrator = "arn:aws:iam::aws:policy/AdministratorAccess"

// Whoever may do a part of IAM tries to become more than that.
func TestNobodyGivesThemselvesMore(t *testing.T) {
	t.Parallel()
	p := target(t)
	everything := policy(allow("*", "*"))
	bound := p.query(t, p.root, "iam", "CreatePolicy", "PolicyName", "escalation-bound", "PolicyDocument", policy(allow("appmesh:Describe* iam:*", "*"))).get(t, "Arn")
	p.user(t, p.root, "escalation-victim", allow("*", "*"))
	powerful := p.role(t, p.root, "escalation-powerful", trust("sts:AssumeRole", `{"Service":"ec2.amazonaws.com"}`), allow("*", "*"))
	const self, victim = "arn:aws:iam::" + ours + ":user/escalation-", "escalation-victim"
	iam := func(key aws.Credentials, action string, members ...string) func(t testing.TB) answer {
		return func(t testing.TB) answer { t.Helper(); return p.query(t, key, "iam", action, members...) }
	}
	denied := func(t *testing.T, what string, attempt func(t testing.TB) answer) {
		t.Helper()
		attempt(t).refused(t, what, "AccessDenied")
	}
	// may is what it can do in the mesh, which nobody here may.
	may := func(t *testing.T, key aws.Credentials, mesh string) {
		t.Helper()
		p.mesh(t, key, "PUT", "/v20190125/meshes", `{"meshName":"`+mesh+`"}`).refused(t, "CreateMesh", "AccessDeniedException")
	}

	t.Run("IAM-001 who may do one thing in IAM does no other", func(t *testing.T) {
		t.Parallel()
		key := p.user(t, p.root, "escalation-one", allow("iam:Get* iam:List*", "*"))
		iam(key, "ListUsers")(t).ok(t)
		const me = "escalation-one"
		for what, attempt := range map[string]func(t testing.TB) answer{
			"a policy for oneself":        iam(key, "PutUserPolicy", "UserName", me, "PolicyName", "own", "PolicyDocument", everything),
			"a managed one":               iam(key, "AttachUserPolicy", "UserName", me, "PolicyArn", administrator),
			"a key of somebody else":      iam(key, "CreateAccessKey", "UserName", victim),
			"a key of one's own":          iam(key, "CreateAccessKey"),
			"a group":                     iam(key, "AddUserToGroup", "UserName", me, "GroupName", "escalation-none"),
			"a role's trust":              iam(key, "UpdateAssumeRolePolicy", "RoleName", "escalation-powerful", "PolicyDocument", trust("sts:AssumeRole", `{"AWS":"`+self+`one"}`)),
			"a role of one's own":         iam(key, "CreateRole", "RoleName", "escalation-own", "AssumeRolePolicyDocument", trust("sts:AssumeRole", `{"AWS":"`+self+`one"}`)),
			"another version of a policy": iam(key, "CreatePolicyVersion", "PolicyArn", bound, "PolicyDocument", everything, "SetAsDefault", "true"),
			"an old version of a policy":  iam(key, "SetDefaultPolicyVersion", "PolicyArn", bound, "VersionId", "v1"),
			"another name":                iam(key, "UpdateUser", "UserName", me, "NewUserName", "escalation-admin"),
			"a tag":                       iam(key, "TagUser", "UserName", me, "Tags.member.1.Key", "team", "Tags.member.1.Value", "admin"),
			"a provider of identities":    iam(key, "CreateOpenIDConnectProvider", "Url", "https://attacker.example", "ClientIDList.member.1", "sts"),
			"an instance profile":         iam(key, "CreateInstanceProfile", "InstanceProfileName", "escalation-profile"),
		} {
			denied(t, what, attempt)
		}
		may(t, key, "escalation-one")
	})

	t.Run("IAM-015 who may write its own policies stays within its boundary", func(t *testing.T) {
		t.Parallel()
		const me = "escalation-bounded"
		key := p.user(t, p.root, me, allow("iam:PutUserPolicy iam:AttachUserPolicy iam:CreateAccessKey", self+"bounded"))
		p.query(t, p.root, "iam", "PutUserPermissionsBoundary", "UserName", me, "PermissionsBoundary", bound).ok(t)
		iam(key, "PutUserPolicy", "UserName", me, "PolicyName", "more", "PolicyDocument", everything)(t).ok(t)
		iam(key, "AttachUserPolicy", "UserName", me, "PolicyArn", administrator)(t).ok(t)
		may(t, key, "escalation-bounded")
		p.mesh(t, keyIn(t, iam(key, "CreateAccessKey")(t)), "PUT", "/v20190125/meshes", `{"meshName":"escalation-key"}`).refused(t, "with a new key", "AccessDeniedException")
		// A session is bound as its user is.
		session := keyIn(t, p.query(t, key, "sts", "GetSessionToken"))
		may(t, session, "escalation-session")
	})

	t.Run("IAM-015 who administers within a boundary cannot take it away", func(t *testing.T) {
		t.Parallel()
		const me = "escalation-delegate"
		// As IAM's guide says it of delegated administrators.
		key := p.user(t, p.root, me,
			allow("iam:CreateUser iam:DeleteUserPolicy iam:AttachUserPolicy iam:DetachUserPolicy iam:PutUserPermissionsBoundary iam:PutUserPolicy", "*", when("StringEquals", "iam:PermissionsBoundary", bound)),
			allow("iam:CreateAccessKey iam:Get* iam:List*", "*"),
			deny("iam:CreatePolicyVersion iam:DeletePolicy iam:DeletePolicyVersion iam:SetDefaultPolicyVersion", bound),
			deny("iam:DeleteUserPermissionsBoundary iam:DeleteRolePermissionsBoundary", "*"))
		p.query(t, p.root, "iam", "PutUserPermissionsBoundary", "UserName", me, "PermissionsBoundary", bound).ok(t)
		const made = "escalation-made"
		denied(t, "a user without the boundary", iam(key, "CreateUser", "UserName", made))
		denied(t, "a user with another boundary", iam(key, "CreateUser", "UserName", made, "PermissionsBoundary", administrator))
		iam(key, "CreateUser", "UserName", made, "PermissionsBoundary", bound)(t).ok(t)
		iam(key, "AttachUserPolicy", "UserName", made, "PolicyArn", administrator)(t).ok(t)
		may(t, keyIn(t, iam(key, "CreateAccessKey", "UserName", made)(t)), "escalation-made")
		for what, attempt := range map[string]func(t testing.TB) answer{
			"AdministratorAccess for who has no boundary": iam(key, "AttachUserPolicy", "UserName", victim, "PolicyArn", administrator),
			"a policy for who has no boundary":            iam(key, "PutUserPolicy", "UserName", victim, "PolicyName", "more", "PolicyDocument", everything),
			"the policy of who has no boundary":           iam(key, "DeleteUserPolicy", "UserName", victim, "PolicyName", "own"),
			"one's own boundary":                          iam(key, "DeleteUserPermissionsBoundary", "UserName", me),
			"somebody's boundary":                         iam(key, "DeleteUserPermissionsBoundary", "UserName", made),
			"a wider boundary":                            iam(key, "PutUserPermissionsBoundary", "UserName", me, "PermissionsBoundary", administrator),
			"a wider one for somebody":                    iam(key, "PutUserPermissionsBoundary", "UserName", made, "PermissionsBoundary", administrator),
			"what the boundary says":                      iam(key, "CreatePolicyVersion", "PolicyArn", bound, "PolicyDocument", everything, "SetAsDefault", "true"),
			"the boundary itself":                         iam(key, "DeletePolicy", "PolicyArn", bound),
		} {
			denied(t, what, attempt)
		}
		may(t, key, "escalation-delegate")
	})

	t.Run("IAM-034 a role is passed on by who may pass it", func(t *testing.T) {
		t.Parallel()
		p.query(t, p.root, "iam", "CreateInstanceProfile", "InstanceProfileName", "escalation-instance").ok(t)
		provider := p.query(t, p.root, "iam", "CreateOpenIDConnectProvider", "Url", "https://passrole.example", "ClientIDList.member.1", "sts.amazonaws.com",
			"Tags.member.1.Key", "evermesh:eks-cluster", "Tags.member.1.Value", "passrole")
		provider.ok(t)
		key := p.user(t, p.root, "escalation-pass", allow("iam:AddRoleToInstanceProfile eks:*", "*"), allow("iam:PassRole", powerful, when("StringEquals", "iam:PassedToService", "lambda.amazonaws.com")))
		denied(t, "to an instance", iam(key, "AddRoleToInstanceProfile", "InstanceProfileName", "escalation-instance", "RoleName", "escalation-powerful"))
		pod := call{"eks", "POST", "/clusters/passrole/pod-identity-associations", `{"namespace":"n","serviceAccount":"s","roleArn":"` + powerful + `"}`, nil}
		p.do(t, key, pod).refused(t, "to a pod", "AccessDeniedException", "AccessDenied")
		p.query(t, p.root, "iam", "PutUserPolicy", "UserName", "escalation-pass", "PolicyName", "pass", "PolicyDocument", policy(allow("iam:PassRole", powerful))).ok(t)
		iam(key, "AddRoleToInstanceProfile", "InstanceProfileName", "escalation-instance", "RoleName", "escalation-powerful")(t).ok(t)
	})

	t.Run("IAM-026 what is built in is nobody's to change", func(t *testing.T) {
		t.Parallel()
		for what, attempt := range map[string]func(t testing.TB) answer{
			"a version": iam(p.root, "CreatePolicyVersion", "PolicyArn", "arn:aws:iam::aws:policy/AWSAppMeshReadOnly", "PolicyDocument", everything, "SetAsDefault", "true"),
			"deleted":   iam(p.root, "DeletePolicy", "PolicyArn", "arn:aws:iam::aws:policy/AWSAppMeshReadOnly"),
		} {
			a := attempt(t)
			if a.status < 400 {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
	})

	t.Run("IAM-015 a session's policies and its tags narrow it, whatever it asks for", func(t *testing.T) {
		t.Parallel()
		key := p.user(t, p.root, "escalation-session", allow("sts:AssumeRole", "*"))
		role := p.role(t, p.root, "escalation-narrow", trust("sts:AssumeRole", `{"AWS":"`+self+`session"}`), allow("appmesh:DescribeMesh", "*"))
		wide := keyIn(t, p.assume(t, key, role, "Policy", everything))
		may(t, wide, "escalation-wide")
		p.assume(t, key, role, "Tags.member.1.Key", "team", "Tags.member.1.Value", "admin").refused(t, "tags that the trust policy does not let it have", "AccessDenied")
		p.assume(t, key, role, "DurationSeconds", "43200").refused(t, "a session longer than the role has", "ValidationError")
		// A session does not shed its policy by assuming its own role again, and does not last longer by it.
		p.query(t, p.root, "iam", "UpdateAssumeRolePolicy", "RoleName", "escalation-narrow", "PolicyDocument", trust("sts:AssumeRole", `{"AWS":["`+self+`session","`+role+`"]}`)).ok(t)
		p.query(t, p.root, "iam", "UpdateRole", "RoleName", "escalation-narrow", "MaxSessionDuration", "43200").ok(t)
		narrow := keyIn(t, p.assume(t, key, role, "Policy", policy(allow("appmesh:ListMeshes", "*"))))
		p.assume(t, narrow, role).refused(t, "its own role, without the session's policy", "AccessDenied")
		p.assume(t, wide, role, "DurationSeconds", "3601").refused(t, "a chain for more than an hour", "ValidationError")
	})
}
