package sts_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

const denied = "AccessDeniedException"

func assume(g *ground, p auth.Principal, role, more string) (*stsapi.AssumeRoleResponse, error) {
	return call[stsapi.AssumeRoleResponse](g, p, "AssumeRole", `{"RoleArn":"`+role+`","RoleSessionName":"s1"`+more+`}`)
}

// session assumes a role and returns its principal.
func session(t *testing.T, g *ground, p auth.Principal, role, more string) auth.Principal {
	t.Helper()
	out, err := assume(g, p, role, more)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := g.principal(out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken)
	if !ok {
		t.Fatal("the session does not hold")
	}
	return got
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	u := g.user(accountA, "ann", mayAssume)
	role := g.role(accountA, "reader", trusting(accountA, ""))
	for _, c := range []struct {
		name    string
		p       auth.Principal
		arn, id string
	}{
		{"IAM-038 root", root(accountA), "arn:aws:iam::111122223333:root", accountA},
		{"IAM-038 user", u, "arn:aws:iam::111122223333:user/ann", u.ID},
		{"IAM-038 session of a role", session(t, g, u, role, ""), "arn:aws:sts::111122223333:assumed-role/reader/s1", "AROA111122223333READER:s1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := call[stsapi.GetCallerIdentityResponse](g, c.p, "GetCallerIdentity", `{}`)
			if err != nil || *out.Account != accountA || out.ARN != c.arn || *out.UserID != c.id {
				t.Errorf("got %+v, %v", out, err)
			}
		})
	}
}

func TestAssumeRole(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ann := g.user(accountA, "ann", mayAssume)
	bob := g.user(accountA, "bob")
	mallory := g.user(accountB, "mallory", mayAssume)
	denies := g.user(accountA, "denies", mayAssume, `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"sts:*","Resource":"*"}]}`)
	account := g.role(accountA, "account", trusting(accountA, ""))
	named := g.role(accountA, "named", trusting(bob.ARN, ""))
	both := g.role(accountA, "both", trusting(denies.ARN, ""))
	other := g.role(accountB, "other", trusting(accountA, ""))
	closed := g.role(accountB, "closed", trusting(accountB, ""))
	external := g.role(accountB, "external", trusting(accountA, `{"StringEquals":{"sts:ExternalId":"tenant-7"}}`))
	office := g.role(accountA, "office", trusting(accountA, `{"IpAddress":{"aws:SourceIp":"198.51.100.0/24"}}`))
	ec2 := g.role(accountA, "ec2", `[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]`)
	for _, c := range []struct {
		name string
		p    auth.Principal
		role string
		more string
		ok   bool
	}{
		{"the account is trusted and the user may", ann, account, "", true},
		{"the account is trusted, the user may not", bob, account, "", false},
		{"the user itself is trusted", bob, named, "", true},
		{"another user is trusted", mallory, named, "", false},
		{"trusted by name, but denied", denies, both, "", false},
		{"another account's role that trusts this account", ann, other, "", true},
		{"the same, without a policy of one's own", bob, other, "", false},
		{"another account's role that does not", ann, closed, "", false},
		{"confused deputy: no external id", ann, external, "", false},
		{"confused deputy: another tenant's external id", ann, external, `,"ExternalId":"tenant-8"`, false},
		{"confused deputy: external id in another case", ann, external, `,"ExternalId":"TENANT-7"`, false},
		{"the external id that was agreed", ann, external, `,"ExternalId":"tenant-7"`, true},
		{"from another network", ann, office, "", false},
		{"a role for a service", ann, ec2, "", false},
		{"a role that does not exist", ann, roleOf(accountA, "nobody"), "", false},
		{"a role's name in another case", ann, roleOf(accountA, "ACCOUNT"), "", false},
		{"a role with a wildcard", ann, roleOf(accountA, "*"), "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, err := assume(g, c.p, c.role, c.more)
			if c.ok && err != nil {
				t.Fatal(err)
			}
			if !c.ok {
				refused(t, err, denied, fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", c.p.ARN, c.role))
				if out != nil {
					t.Error("a refusal comes with credentials")
				}
			}
		})
	}
	t.Run("roots have no roles", func(t *testing.T) {
		t.Parallel()
		_, err := assume(g, root(accountA), account, "")
		refused(t, err, denied, "Roles may not be assumed by root accounts.")
	})
	t.Run("no ARN of a role", func(t *testing.T) {
		t.Parallel()
		for _, arn := range []string{"arn:aws:iam::111122223333:user/ann", "arn:aws:iam:::role/account", "account-account-account", "arn:aws:sts::111122223333:assumed-role/account/x"} {
			_, err := assume(g, ann, arn, "")
			refused(t, err, "ValidationException", arn+" is invalid")
		}
	})
	t.Run("codes of MFA devices", func(t *testing.T) {
		t.Parallel()
		_, err := assume(g, ann, account, `,"SerialNumber":"arn:aws:iam::111122223333:mfa/x","TokenCode":"123456"`)
		refused(t, err, denied, "MultiFactorAuthentication failed")
	})
}

func TestSessionLife(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ann := g.user(accountA, "ann", mayAssume)
	first := g.role(accountA, "first", trusting(accountA, ""), mayAssume)
	second := g.role(accountA, "second", trusting(first, ""), mayAssume)
	life := func(p auth.Principal, role, more string) time.Duration {
		t.Helper()
		s := session(t, g, p, role, more).Session
		if !s.Issued.Equal(g.time()) {
			t.Errorf("issued at %v, now is %v", s.Issued, g.time())
		}
		return s.Expires.Sub(s.Issued)
	}
	if d := life(ann, first, ""); d != time.Hour {
		t.Errorf("without a wish it lasts %v", d)
	}
	if d := life(ann, first, `,"DurationSeconds":7200`); d != 2*time.Hour {
		t.Errorf("it lasts %v, two hours were asked for", d)
	}
	_, err := assume(g, ann, first, `,"DurationSeconds":7201`)
	refused(t, err, "ValidationException", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	chained := session(t, g, ann, first, "")
	if d := life(chained, second, `,"DurationSeconds":3600`); d != time.Hour {
		t.Errorf("a chained session lasts %v", d)
	}
	_, err = assume(g, chained, second, `,"DurationSeconds":3601`)
	refused(t, err, "ValidationException", "1 hour session limit for roles assumed by role chaining")

	out, err := assume(g, ann, first, "")
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	g.pass(time.Hour - time.Second)
	if _, ok := g.principal(c.AccessKeyID, c.SecretAccessKey, c.SessionToken); !ok {
		t.Error("it is over before its time")
	}
	g.pass(time.Second)
	if _, ok := g.principal(c.AccessKeyID, c.SecretAccessKey, c.SessionToken); ok {
		t.Error("it goes on after its end")
	}
}

// A session is bound to its key, and to the role that it was made of.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ann := g.user(accountA, "ann", mayAssume)
	role := g.role(accountA, "r", trusting(accountA, ""))
	one, err := assume(g, ann, role, "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := assume(g, ann, role, "")
	if err != nil {
		t.Fatal(err)
	}
	a, b := one.Credentials, two.Credentials
	for name, c := range map[string][2]string{
		"another session's token": {a.AccessKeyID, b.SessionToken},
		"no token":                {a.AccessKeyID, ""},
		"a key that nobody made":  {"ASIAAAAAAAAAAAAAAAAA", a.SessionToken},
		"the key as a lasting one": {
			strings.Replace(a.AccessKeyID, "ASIA", "AKIA", 1), a.SessionToken,
		},
	} {
		if p, ok := g.principal(c[0], "", c[1]); ok {
			t.Errorf("%s: it is %+v", name, p)
		}
	}
	if _, ok := g.principal(a.AccessKeyID, a.SecretAccessKey, a.SessionToken); !ok {
		t.Fatal("the session does not hold")
	}
	g.mu.Lock()
	g.current[role] = "AROAANOTHERONE"
	g.mu.Unlock()
	if _, ok := g.principal(a.AccessKeyID, a.SecretAccessKey, a.SessionToken); ok {
		t.Error("it goes on with a role that was made anew under the same name")
	}
	g.mu.Lock()
	delete(g.current, role)
	g.mu.Unlock()
	if _, ok := g.principal(a.AccessKeyID, a.SecretAccessKey, a.SessionToken); ok {
		t.Error("it goes on without its role")
	}
}

func TestSessionPolicies(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	managed := "arn:aws:iam::" + accountA + ":policy/narrow"
	g.policies[managed] = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:List*","Resource":"*"}]}`
	g.policies["arn:aws:iam::"+accountB+":policy/theirs"] = g.policies[managed]
	ann := g.user(accountA, "ann", mayAssume)
	role := g.role(accountA, "r", trusting(accountA, ""), `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)
	inline := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:*","Resource":"*"}]}`
	text, err := json.Marshal(inline)
	if err != nil {
		t.Fatal(err)
	}
	p := session(t, g, ann, role, `,"Policy":`+string(text)+`,"PolicyArns":[{"arn":"`+managed+`"}]`)
	if want := []string{inline, g.policies[managed]}; !slices.Equal(p.Session.Policies, want) {
		t.Errorf("IAM-015 the session is narrowed by %q, want %q", p.Session.Policies, want)
	}
	out, err := assume(g, ann, role, `,"Policy":`+string(text))
	if err != nil {
		t.Fatal(err)
	}
	if out.PackedPolicySize == nil || *out.PackedPolicySize < 1 || *out.PackedPolicySize > 100 {
		t.Errorf("PackedPolicySize is %v", out.PackedPolicySize)
	}

	// A managed policy that is gone narrows to nothing, not to everything.
	out, err = assume(g, ann, role, `,"PolicyArns":[{"arn":"`+managed+`"}]`)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	delete(g.policies, managed)
	g.mu.Unlock()
	p, ok := g.principal(out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken)
	if !ok || len(p.Session.Policies) != 1 || !strings.Contains(p.Session.Policies[0], `"Deny"`) {
		t.Errorf("without its policy the session is narrowed by %q", p.Session.Policies)
	}

	long := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::` + strings.Repeat("x", 2048) + `"}]}`
	for name, c := range map[string]struct{ more, code, text string }{
		"no JSON":               {`,"Policy":"{"`, "MalformedPolicyDocumentException", ""},
		"with a principal":      {`,"Policy":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Principal\":\"*\",\"Action\":\"*\",\"Resource\":\"*\"}]}"`, "MalformedPolicyDocumentException", "principal"},
		"too long":              {`,"Policy":` + string(must(json.Marshal(long))), "PackedPolicyTooLargeException", "2048"},
		"eleven managed ones":   {`,"PolicyArns":[` + strings.Repeat(`{"arn":"arn:aws:iam::aws:policy/X"},`, 10) + `{"arn":"arn:aws:iam::aws:policy/X"}]`, "ValidationException", "at most 10"},
		"one that is not there": {`,"PolicyArns":[{"arn":"arn:aws:iam::aws:policy/X"}]`, "InvalidParameterValue", "does not exist"},
		"one of somebody else":  {`,"PolicyArns":[{"arn":"arn:aws:iam::444455556666:policy/theirs"}]`, "ValidationException", "is not in account"},
	} {
		_, err := assume(g, ann, role, c.more)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.text) })
	}
}

func TestSessionTags(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ann := g.user(accountA, "ann", mayAssume)
	role := g.role(accountA, "r", trusting(accountA, ""), mayAssume)
	team := g.role(accountA, "team", trusting(accountA, `{"StringEquals":{"aws:RequestTag/team":"books"}}`))
	untagged := g.role(accountA, "untagged", `[{"Effect":"Allow","Principal":{"AWS":"`+accountA+`"},"Action":"sts:AssumeRole"}]`)
	p := session(t, g, ann, role, `,"Tags":[{"Key":"team","Value":"books"},{"Key":"cost","Value":"7"}],"TransitiveTagKeys":["team"],"SourceIdentity":"ann"`)
	if p.Session.Tags["team"] != "books" || p.Session.Tags["cost"] != "7" || p.Session.SourceIdentity != "ann" {
		t.Errorf("got %+v", p.Session)
	}
	second := session(t, g, p, role, "")
	if got := second.Session; len(got.Tags) != 1 || got.Tags["team"] != "books" || !slices.Equal(got.Transitive, []string{"team"}) || got.SourceIdentity != "ann" {
		t.Errorf("a chained session has %+v", got)
	}
	session(t, g, ann, team, `,"Tags":[{"Key":"team","Value":"books"}]`)
	for name, c := range map[string]struct {
		p                      auth.Principal
		role, more, code, text string
	}{
		"a trust policy wants another tag":    {ann, team, `,"Tags":[{"Key":"team","Value":"films"}]`, denied, "sts:AssumeRole"},
		"no permission to tag":                {ann, untagged, `,"Tags":[{"Key":"team","Value":"books"}]`, denied, "sts:TagSession"},
		"no permission for a source identity": {ann, untagged, `,"SourceIdentity":"ann"`, denied, "sts:SetSourceIdentity"},
		"keys that differ in case":            {ann, role, `,"Tags":[{"Key":"a","Value":"1"},{"Key":"A","Value":"2"}]`, "InvalidParameterValue", "Duplicate tag keys"},
		"a reserved key":                      {ann, role, `,"Tags":[{"Key":"AWS:x","Value":"1"}]`, "InvalidParameterValue", "reserved"},
		"a transitive key that is not given":  {ann, role, `,"TransitiveTagKeys":["x"]`, "InvalidParameterValue", "must be included"},
		"a transitive tag that is replaced":   {p, role, `,"Tags":[{"Key":"TEAM","Value":"films"}]`, "InvalidParameterValue", "conflicts with a transitive tag key"},
		"another source identity":             {p, role, `,"SourceIdentity":"bob"`, denied, "source identity"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := assume(g, c.p, c.role, c.more)
			refused(t, err, c.code, c.text)
		})
	}
}

func TestLongLivedTokens(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ann := g.user(accountA, "ann", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:GetFederationToken","Resource":"arn:aws:sts::111122223333:federated-user/guest"}]}`)
	out, err := call[stsapi.GetSessionTokenResponse](g, ann, "GetSessionToken", `{}`)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := g.principal(out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken)
	if !ok || p.ARN != ann.ARN || p.Type != auth.User || p.ID != ann.ID || p.Session.Expires.Sub(p.Session.Issued) != 12*time.Hour {
		t.Errorf("IAM-014 the session is of %+v", p)
	}
	for _, operation := range []string{"GetSessionToken", "GetFederationToken"} {
		_, err := call[any](g, p, operation, `{"Name":"guest"}`)
		refused(t, err, denied, "Cannot call "+operation+" with session credentials")
	}
	rooted, err := call[stsapi.GetSessionTokenResponse](g, root(accountA), "GetSessionToken", `{"DurationSeconds":129600}`)
	if err != nil {
		t.Fatal(err)
	}
	if d := rooted.Credentials.Expiration.Sub(g.time()); d != time.Hour {
		t.Errorf("a root's session lasts %v, want an hour", d)
	}

	guest, err := call[stsapi.GetFederationTokenResponse](g, ann, "GetFederationToken", `{"Name":"guest"}`)
	if err != nil {
		t.Fatal(err)
	}
	p, ok = g.principal(guest.Credentials.AccessKeyID, guest.Credentials.SecretAccessKey, guest.Credentials.SessionToken)
	if !ok || p.ARN != "arn:aws:sts::111122223333:federated-user/guest" || p.Type != auth.FederatedUser || p.ID != accountA+":guest" || guest.FederatedUser.ARN != p.ARN {
		t.Errorf("IAM-038 a federated user is %+v", p)
	}
	if err := g.Authorize(t.Context(), auth.Question{Principal: p, Action: "sts:GetFederationToken", Resource: p.ARN}); err == nil {
		t.Error("a federated user without a policy may do what its user may")
	}
	_, err = call[any](g, ann, "GetFederationToken", `{"Name":"other"}`)
	refused(t, err, denied, "federated-user/other")
	_, err = assume(g, p, g.role(accountA, "r", trusting("*", "")), "")
	refused(t, err, denied, "federated user")
	g.mu.Lock()
	delete(g.current, ann.ARN)
	g.mu.Unlock()
	for _, c := range []*stsapi.Credentials{out.Credentials, guest.Credentials} {
		if _, ok := g.principal(c.AccessKeyID, c.SecretAccessKey, c.SessionToken); ok {
			t.Error("a session goes on without its user")
		}
	}
}

func TestAccessKeyInfo(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	info := func(p auth.Principal, id string) (string, error) {
		out, err := call[stsapi.GetAccessKeyInfoResponse](g, p, "GetAccessKeyInfo", `{"AccessKeyId":"`+id+`"}`)
		if err != nil {
			return "", err
		}
		return *out.Account, nil
	}
	for range 100 {
		out, err := call[stsapi.GetSessionTokenResponse](g, root(accountB), "GetSessionToken", `{}`)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := info(root(accountA), out.Credentials.AccessKeyID); err != nil || got != accountB {
			t.Fatalf("the account of %s is %q, %v", out.Credentials.AccessKeyID, got, err)
		}
	}
	if got, err := info(root(accountA), "AKIAOFACCOUNTAAAAAAA"); err != nil || got != accountA {
		t.Errorf("the account of a lasting key is %q, %v", got, err)
	}
	_, err := info(root(accountA), "AKIANOBODYNOBODYNOBO")
	refused(t, err, "ValidationException", "AKIANOBODY")
	_, err = info(g.user(accountA, "ann"), "AKIAOFACCOUNTAAAAAAA")
	refused(t, err, denied, "sts:GetAccessKeyInfo")
}

// A stranger who is not trusted is told the same of a role that is there and of one
// that is not, and of managed policies, whatever else is wrong with the request.
func TestAssumeRoleTellsStrangersNothing(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	eve := g.user(accountB, "eve", mayAssume)
	there, absent := g.role(accountA, "secret", trusting(accountA, "")), roleOf(accountA, "absent")
	g.policies["arn:aws:iam::"+accountA+":policy/p"] = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	for _, more := range []string{
		"", `,"Policy":"{"`, `,"Tags":[{"Key":"aws:x","Value":"y"}]`, `,"DurationSeconds":43200`,
		`,"PolicyArns":[{"arn":"arn:aws:iam::` + accountA + `:policy/p"}]`, `,"PolicyArns":[{"arn":"arn:aws:iam::` + accountA + `:policy/q"}]`,
	} {
		_, one := assume(g, eve, there, more)
		_, other := assume(g, eve, absent, more)
		if one == nil || other == nil || strings.ReplaceAll(one.Error(), there, absent) != other.Error() {
			t.Errorf("with %s a role that is there is refused by %v, one that is not by %v", more, one, other)
		}
	}
	p := `,"PolicyArns":[{"arn":"arn:aws:iam::` + accountA + `:policy/%s"}]`
	_, known := assume(g, eve, there, fmt.Sprintf(p, "p"))
	_, unknown := assume(g, eve, there, fmt.Sprintf(p, "q"))
	if known == nil || unknown == nil || known.Error() != unknown.Error() {
		t.Errorf("of a policy that is there %v is said, of one that is not %v", known, unknown)
	}
	ann := g.user(accountA, "ann", mayAssume)
	_, err := assume(g, ann, there, fmt.Sprintf(p, "q"))
	refused(t, err, "InvalidParameterValue", "does not exist")
}

// Nothing is made of what may be old, nor for a key that has ended meanwhile.
func TestNoSessionsWithoutTheStore(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	g.provider(accountA, "", "sts.amazonaws.com")
	ann := g.user(accountA, "ann", mayAssume, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:*","Resource":"*"}]}`)
	role := g.role(accountA, "r", trusting(accountA, ""))
	calls := map[string]func() error{
		"AssumeRole":         func() error { _, err := assume(g, ann, role, ""); return err },
		"GetSessionToken":    func() error { _, err := call[any](g, ann, "GetSessionToken", `{}`); return err },
		"GetFederationToken": func() error { _, err := call[any](g, ann, "GetFederationToken", `{"Name":"guest"}`); return err },
	}
	ended := ann
	ended.AccessKeyID = "AKIAENDED"
	ann, ended = ended, ann
	for name, do := range calls {
		if err := do(); err == nil {
			t.Errorf("%s makes a session for a key that has ended", name)
		}
	}
	ann = ended
	g.mu.Lock()
	g.stale = api.Errorf(api.CodeServiceUnavailable, "behind")
	g.mu.Unlock()
	calls["AssumeRoleWithWebIdentity"] = func() error {
		token := g.issuer.ServiceAccount(t, "shop", "orders", "sts.amazonaws.com")
		_, err := call[any](g, auth.Principal{}, "AssumeRoleWithWebIdentity", `{"RoleArn":"`+role+`","RoleSessionName":"s1","WebIdentityToken":"`+token+`"}`)
		return err
	}
	for name, do := range calls {
		t.Run(name, func(t *testing.T) { refused(t, do(), api.CodeServiceUnavailable, "behind") })
	}
}

// Federated users have nothing of IAM and STS, whatever their policies allow.
func TestFederatedUsersHaveNoIAM(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	all := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	ann := g.user(accountA, "ann", all)
	in, err := json.Marshal(map[string]string{"Name": "guest", "Policy": all})
	if err != nil {
		t.Fatal(err)
	}
	out, err := call[stsapi.GetFederationTokenResponse](g, ann, "GetFederationToken", string(in))
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	p, ok := g.principal(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
	if !ok {
		t.Fatal("the session does not hold")
	}
	for action, want := range map[string]bool{
		"appmesh:CreateMesh": true, "iam:CreateUser": false, "IAM:createaccesskey": false, "iam:PassRole": false, "sts:AssumeRole": false, "sts:GetAccessKeyInfo": false,
	} {
		if err := g.Authorize(t.Context(), auth.Question{Principal: p, Action: action, Resource: "*"}); (err == nil) != want {
			t.Errorf("%s: %v", action, err)
		}
	}
	if _, err := call[any](g, p, "GetAccessKeyInfo", `{"AccessKeyId":"AKIAOFACCOUNTAAAAAAA"}`); err == nil {
		t.Error("a federated user asks STS for more than who it is")
	}
	if _, err := call[stsapi.GetCallerIdentityResponse](g, p, "GetCallerIdentity", `{}`); err != nil {
		t.Errorf("a federated user may not ask who it is: %v", err)
	}
}
