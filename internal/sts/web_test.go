package sts_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/oidc"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
)

const (
	subject  = "system:serviceaccount:shop:orders"
	audience = "sts.amazonaws.com"
)

// irsa is a trust policy's statements as EKS's tools write them.
func (g *ground) irsa(account, subject string) string {
	name := oidc.Name(g.issuer.URL)
	return `[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::` + account + `:oidc-provider/` + name + `"},"Action":"sts:AssumeRoleWithWebIdentity",` +
		`"Condition":{"StringEquals":{"` + name + `:sub":"` + subject + `","` + name + `:aud":"` + audience + `"}}}]`
}

func assumeWeb(g *ground, token, role, more string) (*stsapi.AssumeRoleWithWebIdentityResponse, error) {
	return call[stsapi.AssumeRoleWithWebIdentityResponse](g, auth.Principal{}, "AssumeRoleWithWebIdentity",
		`{"RoleArn":"`+role+`","RoleSessionName":"pod","WebIdentityToken":"`+token+`"`+more+`}`)
}

func TestWebIdentity(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	provider := g.provider(accountA, "", audience)
	role := g.role(accountA, "orders", g.irsa(accountA, subject))
	good := g.issuer.ServiceAccount(t, "shop", "orders", audience)
	out, err := assumeWeb(g, good, role, "")
	if err != nil {
		t.Fatal(err)
	}
	if *out.Provider != provider || *out.Audience != audience || out.SubjectFromWebIdentityToken != subject {
		t.Errorf("got %+v", out)
	}
	p, ok := g.principal(out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken)
	if !ok || p.ARN != "arn:aws:sts::111122223333:assumed-role/orders/pod" || p.Type != auth.AssumedRole || p.Session.Issuer != role || p.Session.Subject != subject || p.Session.Provider != provider {
		t.Errorf("IAM-033 the service account is %+v", p)
	}
	const refusal = "Not authorized to perform sts:AssumeRoleWithWebIdentity"
	theirs := g.role(accountB, "theirs", g.irsa(accountB, subject))
	crossed := g.role(accountB, "crossed", g.irsa(accountA, subject))
	users := g.role(accountA, "users", trusting(accountA, ""))
	stranger := oidctest.New(t)
	for name, c := range map[string]struct{ token, role, code, text string }{
		"another service account":               {g.issuer.ServiceAccount(t, "shop", "payments", audience), role, denied, refusal},
		"another namespace":                     {g.issuer.ServiceAccount(t, "shop2", "orders", audience), role, denied, refusal},
		"a service account in another case":     {g.issuer.ServiceAccount(t, "shop", "Orders", audience), role, denied, refusal},
		"a role that trusts users":              {good, users, denied, refusal},
		"a role that does not exist":            {good, roleOf(accountA, "nobody"), denied, refusal},
		"an audience that is not registered":    {g.issuer.ServiceAccount(t, "shop", "orders", "vault"), role, "InvalidIdentityTokenException", "Incorrect token audience"},
		"the audience of pods":                  {g.issuer.ServiceAccount(t, "shop", "orders", sts.PodAudience), role, "InvalidIdentityTokenException", "Incorrect token audience"},
		"an account that does not know it":      {good, theirs, "InvalidIdentityTokenException", "No OpenIDConnect provider found in your account for " + g.issuer.URL},
		"a role of another account trusts ours": {good, crossed, "InvalidIdentityTokenException", "No OpenIDConnect provider found"},
		"an issuer that nobody registered":      {stranger.ServiceAccount(t, "shop", "orders", audience), role, "InvalidIdentityTokenException", "No OpenIDConnect provider found in your account for " + stranger.URL},
		"no ARN of a role":                      {good, "arn:aws:iam::111122223333:user/x", "ValidationException", "is invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := assumeWeb(g, c.token, c.role, "")
			refused(t, err, c.code, c.text)
		})
	}
	t.Run("a provider of OAuth", func(t *testing.T) {
		t.Parallel()
		_, err := assumeWeb(g, good, role, `,"ProviderId":"www.amazon.com"`)
		refused(t, err, "ValidationException", "ProviderId")
	})
	if n := stranger.Asked(); n != 0 {
		t.Errorf("an issuer that nobody registered was asked %d times", n)
	}
}

// Names of providers are found without case, issuers are not the same without it.
func TestIssuersDifferInCase(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	arn := g.provider(accountA, "", audience)
	g.mu.Lock()
	for key, p := range g.providers {
		p.Issuer += "/ID/A"
		g.providers[key+"/id/a"] = p
	}
	g.mu.Unlock()
	role := g.role(accountA, "r", `[{"Effect":"Allow","Principal":{"Federated":"`+arn+`"},"Action":"sts:AssumeRoleWithWebIdentity"}]`)
	token := g.issuer.Token(t, subject, audience, map[string]any{"iss": g.issuer.URL + "/id/a"})
	_, err := assumeWeb(g, token, role, "")
	refused(t, err, "InvalidIdentityTokenException", "No OpenIDConnect provider found")
}

// A token brings tags of its session only where the trust policy lets it.
func TestTokenTags(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	arn := g.provider(accountA, "", audience)
	token := g.issuer.Token(t, subject, audience, map[string]any{"https://aws.amazon.com/tags": map[string]any{
		"principal_tags": map[string]any{"team": []string{"books"}}, "transitive_tag_keys": []string{"team", "other"},
	}})
	trust := func(actions string) string {
		return `[{"Effect":"Allow","Principal":{"Federated":"` + arn + `"},"Action":[` + actions + `]}]`
	}
	_, err := assumeWeb(g, token, g.role(accountA, "plain", trust(`"sts:AssumeRoleWithWebIdentity"`)), "")
	refused(t, err, denied, "Not authorized")
	out, err := assumeWeb(g, token, g.role(accountA, "tagged", trust(`"sts:AssumeRoleWithWebIdentity","sts:TagSession"`)), "")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := g.principal(out.Credentials.AccessKeyID, out.Credentials.SecretAccessKey, out.Credentials.SessionToken)
	if p.Session.Tags["team"] != "books" || len(p.Session.Transitive) != 1 {
		t.Errorf("got %+v", p.Session)
	}
}

// A proxy shows the certificate that its mesh gave it.
func TestCertificates(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	trust := func(domain, condition string) string {
		return `[{"Effect":"Allow","Principal":{"Federated":"` + domain + `"},"Action":"sts:AssumeRoleWithWebIdentity","Condition":` + condition + `}]`
	}
	const id = "spiffe://prod.example/ns/shop/sa/orders"
	role := g.role(accountA, "orders", trust("spiffe://prod.example", `{"StringEquals":{"spiffe:sub":"`+id+`"}}`))
	all := g.role(accountA, "all", trust("spiffe://prod.example", `{"StringLike":{"spiffe:sub":"spiffe://prod.example/ns/shop/*"}}`))
	for _, c := range []struct {
		name, id, role string
		ok             bool
	}{
		{"the id", id, role, true},
		{"an id below", id, all, true},
		{"another workload", "spiffe://prod.example/ns/shop/sa/payments", role, false},
		{"another namespace", "spiffe://prod.example/ns/shopping/sa/orders", all, false},
		{"another trust domain", "spiffe://test.example/ns/shop/sa/orders", role, false},
		{"a role that does not exist", id, roleOf(accountA, "nobody"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(c.id)
			if err != nil {
				t.Fatal(err)
			}
			p, err := g.server.AssumeCertificate(t.Context(), u, time.Now().Add(time.Hour), c.role, nil)
			if !c.ok {
				refused(t, err, denied, "Not authorized to perform sts:AssumeRoleWithWebIdentity")
				return
			}
			if err != nil || !strings.HasSuffix(p.ARN, "/ns-shop-sa-orders") || p.Session.Subject != id || p.Session.Issuer != c.role {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}
