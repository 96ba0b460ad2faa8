package iam_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// follow is run for tests whose writes are to act when they return.
func follow(t *testing.T, k *iam.Keys) {
	t.Helper()
	run(t, k)
	testenv.Eventually(t, "the store is followed", k.Directory().Following)
}

// call runs an operation as the root of the first account.
func call(t testing.TB, s *service.Service, k *iam.Keys, operation string, input map[string]any) (any, error) {
	t.Helper()
	c := &service.Call{
		ID: "1", Service: s, Operation: operation, Principal: iam.Root("aws", first), Input: input, Authorizer: k.Authorizer(),
	}
	return s.Operations[operation].Run(context.Background(), c)
}

// Whatever is called in whatever order, the directory that has followed it says of
// every question what one says that has read everything anew.
func TestTheDirectoryFollowsWhatIsWritten(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	k := open(t, replica(stores[0], dir))
	follow(t, k)
	s, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	documents := []string{
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:*","Resource":"*"}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["appmesh:List*","iam:*"],"Resource":"*"}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"appmesh:DescribeMesh","Resource":"*"}]}`,
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/team":"books"}}}]}`,
	}
	answers := map[bool]int{}
	rapid.Check(t, func(rt *rapid.T) {
		pick := func(label string, list ...string) string { return rapid.SampledFrom(list).Draw(rt, label) }
		ids := map[string]string{} // of users by name, as far as they are known
		for operation, input := range map[string]map[string]any{
			"CreateUser": {"UserName": "u1"}, "CreateGroup": {"GroupName": "g1"}, "CreatePolicy": {"PolicyName": "p1", "PolicyDocument": documents[0]},
		} {
			if _, err := call(t, s, k, operation, input); err != nil {
				rt.Fatal(err)
			}
		}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			user, group := pick("user", "u1", "U1", "u2"), pick("group", "g1", "g2")
			policy := "arn:aws:iam::" + first + ":policy/" + pick("policy", "p1", "p2")
			if pick("builtin", "own", "own", "aws") == "aws" {
				policy = "arn:aws:iam::aws:policy/AWSAppMeshReadOnly"
			}
			text := pick("document", documents...)
			operation, input := "", map[string]any{}
			switch pick("step", "user", "group", "policy", "join", "leave", "attach", "detach", "group attach", "inline", "no inline", "version", "bound", "free", "rename", "tag", "untag", "delete user") {
			case "user":
				operation, input = "CreateUser", map[string]any{"UserName": user}
			case "group":
				operation, input = "CreateGroup", map[string]any{"GroupName": group}
			case "policy":
				operation, input = "CreatePolicy", map[string]any{"PolicyName": pick("name", "p1", "p2"), "PolicyDocument": text}
			case "join":
				operation, input = "AddUserToGroup", map[string]any{"UserName": user, "GroupName": group}
			case "leave":
				operation, input = "RemoveUserFromGroup", map[string]any{"UserName": user, "GroupName": group}
			case "attach":
				operation, input = "AttachUserPolicy", map[string]any{"UserName": user, "PolicyArn": policy}
			case "detach":
				operation, input = "DetachUserPolicy", map[string]any{"UserName": user, "PolicyArn": policy}
			case "group attach":
				operation, input = "AttachGroupPolicy", map[string]any{"GroupName": group, "PolicyArn": policy}
			case "inline":
				operation, input = "PutUserPolicy", map[string]any{"UserName": user, "PolicyName": "i", "PolicyDocument": text}
			case "no inline":
				operation, input = "DeleteUserPolicy", map[string]any{"UserName": user, "PolicyName": "i"}
			case "version":
				operation, input = "CreatePolicyVersion", map[string]any{"PolicyArn": policy, "PolicyDocument": text, "SetAsDefault": true}
			case "bound":
				operation, input = "PutUserPermissionsBoundary", map[string]any{"UserName": user, "PermissionsBoundary": policy}
			case "free":
				operation, input = "DeleteUserPermissionsBoundary", map[string]any{"UserName": user}
			case "rename":
				operation, input = "UpdateUser", map[string]any{"UserName": user, "NewUserName": pick("new", "u1", "u2", "u3")}
			case "tag":
				operation, input = "TagUser", map[string]any{"UserName": user, "Tags": []any{map[string]any{"Key": "team", "Value": pick("team", "books", "films")}}}
			case "untag":
				operation, input = "UntagUser", map[string]any{"UserName": user, "TagKeys": []any{"team"}}
			case "delete user":
				operation, input = "DeleteUser", map[string]any{"UserName": user}
			}
			_, _ = call(t, s, k, operation, input) // a refusal is an answer too
		}
		fresh, err := iam.Manage(context.Background(), replica(stores[1], dir))
		if err != nil {
			rt.Fatal(err)
		}
		for _, name := range []string{"u1", "U1", "u2", "u3"} {
			arn := "arn:aws:iam::" + first + ":user/" + name
			id, ok := k.Current(arn)
			again, okAgain := fresh.Current(arn)
			if id != again || ok != okAgain {
				rt.Fatalf("%s is %q, %v; read anew it is %q, %v", arn, id, ok, again, okAgain)
			}
			if ok {
				ids[name] = id
			}
		}
		for _, name := range slices.Sorted(maps.Keys(ids)) {
			p := auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/" + name, Type: auth.User, ID: ids[name]}
			for _, action := range []string{"appmesh:DescribeMesh", "appmesh:ListMeshes", "appmesh:CreateMesh", "iam:GetUser"} {
				q := auth.Question{Principal: p, Action: action, Resource: "arn:aws:appmesh:us-east-1:" + first + ":mesh/m"}
				one, two := k.Authorizer().Authorize(context.Background(), q), fresh.Authorizer().Authorize(context.Background(), q)
				answers[one == nil]++
				if fmt.Sprint(one) != fmt.Sprint(two) {
					rt.Fatalf("%s may %s: %v; read anew: %v", name, action, one, two)
				}
			}
		}
		clear(t, stores[0], k)
	})
	if answers[true] < 20 || answers[false] < 20 {
		t.Errorf("only %d questions were answered with yes and %d with no", answers[true], answers[false])
	}
}

// clear takes everybody away again.
func clear(t testing.TB, s *store.Store, k *iam.Keys) {
	t.Helper()
	scope := store.AccountScope(first)
	revision, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		for _, kind := range []string{"user", "group", "policy"} {
			for _, r := range tx.Records(scope.Tail(kind) + "/") {
				tx.DeleteRecord(store.Type{Name: kind, Schema: 1}, r.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	k.Directory().Wait(context.Background(), revision)
}

// Who is gone is refused at once, whatever it holds: a session of a role that was
// deleted, or made anew under the same name, and a user.
func TestPrincipalsThatAreGone(t *testing.T) {
	t.Parallel()
	k := open(t, replica(storetest.New(t), t.TempDir()))
	follow(t, k)
	s, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	do := func(operation string, input map[string]any) {
		t.Helper()
		if _, err := call(t, s, k, operation, input); err != nil {
			t.Fatalf("%s: %v", operation, err)
		}
	}
	trust := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + first + `"},"Action":"sts:AssumeRole"}]}`
	all := "arn:aws:iam::aws:policy/AdministratorAccess"
	makeRole := func() {
		do("CreateRole", map[string]any{"RoleName": "r", "AssumeRolePolicyDocument": trust})
		do("AttachRolePolicy", map[string]any{"RoleName": "r", "PolicyArn": all})
	}
	makeRole()
	do("CreateUser", map[string]any{"UserName": "u"})
	do("AttachUserPolicy", map[string]any{"UserName": "u", "PolicyArn": all})
	roleARN := "arn:aws:iam::" + first + ":role/r"
	role, ok, err := k.Role(context.Background(), roleARN)
	if err != nil || !ok {
		t.Fatalf("the role is known: %v, error %v", ok, err)
	}
	user, _ := k.Current("arn:aws:iam::" + first + ":user/u")
	changed := make(chan []string, 100)
	k.Directory().OnChange(func(accounts []string) { changed <- accounts })

	session := auth.Principal{
		Account: first, ARN: "arn:aws:sts::" + first + ":assumed-role/r/s", Type: auth.AssumedRole, ID: role.ID + ":s",
		Session: &auth.Session{Issuer: roleARN, IssuerID: role.ID},
	}
	narrow := session
	narrow.Session = &auth.Session{Issuer: roleARN, IssuerID: role.ID, Policies: []string{`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:List*","Resource":"*"}]}`}}
	broken := session
	broken.Session = &auth.Session{Issuer: roleARN, IssuerID: role.ID, Policies: []string{"{"}}
	federated := auth.Principal{
		Account: first, ARN: "arn:aws:sts::" + first + ":federated-user/f", Type: auth.FederatedUser, ID: first + ":f",
		Session: &auth.Session{Issuer: "arn:aws:iam::" + first + ":user/u", IssuerID: user, Policies: narrow.Session.Policies},
	}
	bare := federated
	bare.Session = &auth.Session{Issuer: federated.Session.Issuer, IssuerID: user}
	ask := func(p auth.Principal, action string) string {
		err := k.Authorizer().Authorize(context.Background(), auth.Question{Principal: p, Action: action, Resource: "*"})
		if err == nil {
			return "yes"
		}
		return err.Error()
	}
	for _, c := range []struct {
		name   string
		who    auth.Principal
		action string
		want   string
	}{
		{"a session has what its role has", session, "appmesh:CreateMesh", "yes"},
		{"a session policy narrows it", narrow, "appmesh:CreateMesh", "because no session policy allows the appmesh:CreateMesh action"},
		{"and allows", narrow, "appmesh:ListMeshes", "yes"},
		{"a session policy that cannot be read allows nothing", broken, "appmesh:ListMeshes", "explicit deny in a session policy"},
		{"a federated user has what its policies and its user's say", federated, "appmesh:ListMeshes", "yes"},
		{"and no more", federated, "appmesh:CreateMesh", "because no session policy"},
		{"without policies it has nothing", bare, "appmesh:ListMeshes", "because no identity-based policy"},
	} {
		if got := ask(c.who, c.action); got != c.want && !strings.HasSuffix(got, c.want) && !strings.Contains(got, c.want) || c.want == "yes" && got != "yes" {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}

	for name, nobody := range map[string]auth.Principal{
		"nobody":                        {},
		"a root of no account":          {Type: auth.Root},
		"a principal of no kind":        {Account: first, ARN: "arn:aws:iam::" + first + ":root", ID: first},
		"a user with an account's id":   {Account: first, ARN: "arn:aws:iam::" + first + ":user/u", Type: auth.User, ID: first},
		"a role with an account's id":   {Account: first, Type: auth.AssumedRole, ID: first + ":s", Session: session.Session},
		"a user without an id":          {Account: first, ARN: "arn:aws:iam::" + first + ":user/u", Type: auth.User},
		"another account's user":        {Account: other, ARN: "arn:aws:iam::" + other + ":user/u", Type: auth.User, ID: user},
		"a federated user of no one":    {Account: first, Type: auth.FederatedUser, ID: first + ":f"},
		"a session without a role's id": {Account: first, Type: auth.AssumedRole, ID: ":s", Session: session.Session},
	} {
		if got := ask(nobody, "appmesh:ListMeshes"); !strings.HasPrefix(got, api.CodeUnrecognizedClient) {
			t.Errorf("%s: %q", name, got)
		}
	}

	do("DetachRolePolicy", map[string]any{"RoleName": "r", "PolicyArn": all})
	if got := <-changed; !slices.Equal(got, []string{first}) {
		t.Errorf("changed are %v", got)
	}
	if got := ask(session, "appmesh:CreateMesh"); !strings.Contains(got, "because no identity-based policy allows") {
		t.Errorf("after the policy is detached: %q", got)
	}
	do("DeleteRole", map[string]any{"RoleName": "r"})
	const invalid = "UnrecognizedClientException: The security token included in the request is invalid."
	if got := ask(session, "appmesh:CreateMesh"); got != invalid {
		t.Errorf("after the role is deleted: %q", got)
	}
	makeRole()
	if got := ask(session, "appmesh:CreateMesh"); got != invalid {
		t.Errorf("after another role has its name: %q", got)
	}
	do("DetachUserPolicy", map[string]any{"UserName": "u", "PolicyArn": all})
	do("DeleteUser", map[string]any{"UserName": "u"})
	if got := ask(federated, "appmesh:ListMeshes"); got != invalid {
		t.Errorf("after the user is deleted: %q", got)
	}
}

// A policy that a newer release wrote and this one cannot read may deny anything: it
// denies everything.
func TestAPolicyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	k := open(t, replica(s, t.TempDir()))
	follow(t, k)
	scope := store.AccountScope(first)
	revision, err := s.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.PutRecord(store.Type{Name: "user", Schema: 2}, scope.Tail("user", "u"), map[string]any{
			"name": "u", "path": "/", "id": "AIDAU", "attached": []string{"arn:aws:iam::aws:policy/AdministratorAccess"},
			"inline": []any{map[string]string{"name": "new", "document": `{"Version":"2030-01-01","Statement":[]}`}},
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	k.Directory().Wait(context.Background(), revision)
	err = k.Authorizer().Authorize(context.Background(), auth.Question{
		Principal: auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/u", Type: auth.User, ID: "AIDAU"}, Action: "appmesh:ListMeshes", Resource: "*",
	})
	if err == nil || !strings.Contains(err.Error(), "explicit deny") {
		t.Errorf("got %v", err)
	}
}

// The operator's log says why, in full; the caller is not told what the policies of
// others hold.
func TestRefusalsAreExplainedToTheOperator(t *testing.T) {
	t.Run("IAM-041", func(t *testing.T) {
		t.Parallel()
		var log testenv.Output
		c := replica(storetest.New(t), t.TempDir())
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		k := open(t, c)
		follow(t, k)
		s, err := iam.NewServer(k).Service()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, s, k, "CreateUser", map[string]any{"UserName": "u"}); err != nil {
			t.Fatal(err)
		}
		if _, err := call(t, s, k, "PutUserPolicy", map[string]any{"UserName": "u", "PolicyName": "own", "PolicyDocument": `{"Version":"2012-10-17","Statement":[
			{"Sid":"Home","Effect":"Allow","Action":"appmesh:*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}},
			{"Sid":"Apps","Effect":"Allow","Action":"appmesh:Describe*","Resource":"arn:aws:appmesh:*:*:mesh/apps"},
			{"Sid":"NoDelete","Effect":"Deny","Action":"appmesh:Delete*","Resource":"*"}]}`}); err != nil {
			t.Fatal(err)
		}
		id, _ := k.Current("arn:aws:iam::" + first + ":user/u")
		ask := func(action string) string {
			t.Helper()
			before := len(log.String())
			err := k.Authorizer().Authorize(context.Background(), auth.Question{
				Principal: auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/u", Type: auth.User, ID: id}, Action: action,
				Resource: "arn:aws:appmesh:us-east-1:" + first + ":mesh/other", Keys: map[string][]string{"aws:sourceip": {"192.0.2.7"}},
			})
			if err == nil || strings.Contains(err.Error(), "10.0.0.0") || strings.Contains(err.Error(), "Home") {
				t.Errorf("the caller is told %v", err)
			}
			return log.String()[before:]
		}
		for action, want := range map[string][]string{
			"appmesh:DescribeMesh": {"decision=implicitDeny", "u/own Home: condition", "192.0.2.7", "10.0.0.0/8", "u/own Apps: resource"},
			"appmesh:DeleteMesh":   {"decision=explicitDeny", "policy=u/own", "statement=NoDelete"},
		} {
			said := ask(action)
			for _, text := range want {
				if !strings.Contains(said, text) {
					t.Errorf("%s: the log does not say %q:\n%s", action, text, said)
				}
			}
		}
	})
}
