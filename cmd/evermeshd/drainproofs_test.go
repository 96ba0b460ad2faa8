package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/sts/proxyauth"
)

// A token or a certificate drains a proxy as it opens its stream, over HTTP/1.1 on the port of the streams; those of other
// nodes, and those that are over, do not.
func TestDrainByTokenAndCertificate(t *testing.T) {
	t.Parallel()
	issuer, domain, foreign := oidctest.New(t), sdstest.NewAuthority(t, "trust domain"), sdstest.NewAuthority(t, "another domain")
	p := start(t, t.TempDir(), "--xds-listen", "0.0.0.0:0", "--oidc-ca-file", issuer.CAFile, "--xds-client-ca", domain.Write(t, t.TempDir(), "ca"))
	cloudMapMesh(t, p, "red")
	facts, roots := p.trusted(t)
	made := map[string]string{}
	for line := range strings.Lines(p.python(t, fmt.Sprintf(`
iam = boto3.client("iam")
def policy(effect):
    return json.dumps({"Version": "2012-10-17", "Statement": [effect]})
def may(node):
    return policy({"Effect": "Allow", "Action": "appmesh:StreamAggregatedResources", "Resource": "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/" + node})
name = %q
provider = iam.create_open_id_connect_provider(Url="https://" + name, ClientIDList=["sts.amazonaws.com"])["OpenIDConnectProviderArn"]
def role(kind, node, principal, condition):
    trust = policy({"Effect": "Allow", "Principal": {"Federated": principal}, "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": condition}})
    print(kind + "-" + node, iam.create_role(RoleName=kind + "-" + node, AssumeRolePolicyDocument=trust)["Role"]["Arn"])
    iam.put_role_policy(RoleName=kind + "-" + node, PolicyName="p", PolicyDocument=may(node))
for node in "red", "front":
    role("token", node, provider, {name + ":sub": "system:serviceaccount:shop:" + node})
    role("certificate", node, "spiffe://prod.example", {"spiffe:sub": "spiffe://prod.example/ns/shop/sa/" + node})
iam.create_user(UserName="red")
iam.put_user_policy(UserName="red", PolicyName="p", PolicyDocument=may("red"))
k = iam.create_access_key(UserName="red")["AccessKey"]
print("key", k["AccessKeyId"])
print("secret", k["SecretAccessKey"])
`+twoInstances, strings.TrimPrefix(issuer.URL, "https://")))) {
		word := strings.Fields(line)
		made[word[0]] = word[1]
	}
	conn := signedStream(t, facts, roots, aws.Credentials{AccessKeyID: made["key"], SecretAccessKey: made["secret"]})
	const instance = "arn:aws:ecs:us-east-1:000000000000:task/shop/1"
	adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/red", Instance: instance, Delta: true, Addresses: []string{"10.0.0.1/24"}})

	token := func(node string, claims map[string]any) string {
		return issuer.Token(t, "system:serviceaccount:shop:"+node, "sts.amazonaws.com", claims)
	}
	id := func(node string) string { return "spiffe://prod.example/ns/shop/sa/" + node }
	issue := func(of *sdstest.Authority, node string, end time.Duration) *tls.Certificate {
		c := of.IssueUntil(t, time.Now().Add(end), id(node))
		pair, err := tls.X509KeyPair(c.Chain, c.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	other := oidctest.NewKey(t, issuer.Signer().ID, issuer.Signer().Algorithm)
	forged := oidctest.Sign(t, other, issuer.Claims("system:serviceaccount:shop:red", "sts.amazonaws.com", time.Now(), nil), nil)
	past := time.Now().Add(-time.Hour).Unix()
	for _, c := range []struct {
		name, method, token, role string
		certificate               *tls.Certificate
		status                    int // 0: it is refused; -1: there is no connection
		says                      string
	}{
		{name: "a token", token: token("red", nil), role: "token-red", status: 200, says: `"status":"DRAINED"`},
		{name: "a token takes it back", method: http.MethodDelete, token: token("red", nil), role: "token-red", status: 200, says: `"status":`},
		{name: "a token that has expired", token: token("red", map[string]any{"exp": past, "iat": past - 60, "nbf": past - 60}), role: "token-red", says: "xpired"},
		{name: "a token that somebody else signed", token: forged, role: "token-red", says: "oken"},
		{name: "a token for another audience", token: token("red", map[string]any{"aud": "elsewhere"}), role: "token-red", says: "audience"},
		{name: "the token of another node, for this one's role", token: token("front", nil), role: "token-red", says: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{name: "the token of another node, for its own role", token: token("front", nil), role: "token-front", says: "appmesh:StreamAggregatedResources"},
		{name: "a certificate", certificate: issue(domain, "red", time.Hour), role: "certificate-red", status: 200, says: `"status":"DRAINED"`},
		{name: "a certificate takes it back", method: http.MethodDelete, certificate: issue(domain, "red", time.Hour), role: "certificate-red", status: 200, says: `"status":`},
		{name: "a certificate without a role", certificate: issue(domain, "red", time.Hour), says: "Missing Authentication Token"},
		{name: "the certificate of another node, for this one's role", certificate: issue(domain, "front", time.Hour), role: "certificate-red", says: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{name: "the certificate of another node, for its own role", certificate: issue(domain, "front", time.Hour), role: "certificate-front", says: "appmesh:StreamAggregatedResources"},
		{name: "a certificate for the role of a token", certificate: issue(domain, "red", time.Hour), role: "token-red", says: "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{name: "a certificate of another authority", certificate: issue(foreign, "red", time.Hour), role: "certificate-red", status: -1},
		{name: "a certificate that has expired", certificate: issue(domain, "red", -time.Minute), role: "certificate-red", status: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
			if c.certificate != nil { // in any case: a client that looks at the authorities it may show would show none
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate, nil }
			}
			web := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
			defer web.CloseIdleConnections()
			method := c.method
			if method == "" {
				method = http.MethodPut
			}
			r, err := http.NewRequestWithContext(t.Context(), method, "https://"+facts.XDSEndpoint+"/evermesh/v1/proxies/"+url.PathEscape(instance)+"/drain", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.token != "" {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			if c.role != "" {
				r.Header.Set(proxyauth.RoleHeader, made[c.role])
			}
			answer, err := web.Do(r)
			if c.status < 0 {
				if err == nil {
					answer.Body.Close()
					t.Errorf("it was answered with %d", answer.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			text, err := io.ReadAll(answer.Body)
			if err != nil || answer.Proto != "HTTP/1.1" {
				t.Fatalf("%s, %v", answer.Proto, err)
			}
			refused := c.status == 0 && answer.StatusCode >= 400 && answer.StatusCode < 500
			if !refused && answer.StatusCode != c.status || !strings.Contains(string(text), c.says) {
				t.Errorf("%d %s, want %d with %q", answer.StatusCode, text, c.status, c.says)
			}
			if c.token != "" && strings.Contains(string(text), c.token) {
				t.Error("the answer repeats the token")
			}
		})
	}
	if said := p.said(t); strings.Contains(said, forged) || strings.Contains(said, made["secret"]) {
		t.Error("the log has a token or a key")
	}
}
