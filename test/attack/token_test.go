package attack

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
)

const (
	webAudience = "sts.amazonaws.com"
	subject     = "system:serviceaccount:shop:orders"
)

// gates are the three places that take tokens, for one provider of identities.
type gates struct {
	*plane
	*oidctest.Issuer
	name string // of the mesh, the cluster and the role
	role string
}

// gate takes a token, and says whether it was let in, and what came of it.
type gate struct {
	name, audience string
	in             func(t testing.TB, token string) (bool, string)
}

// newGates registers a provider, with a role for one service account of it, an
// association of a pod and a node.
func newGates(t testing.TB, p *plane, name string) *gates {
	t.Helper()
	g := &gates{plane: p, Issuer: oidctest.New(t), name: name}
	provider := g.register(t, g.URL)
	issuer := strings.TrimPrefix(g.URL, "https://")
	g.role = p.role(t, p.root, name, policy(
		`{"Effect":"Allow","Action":"sts:AssumeRoleWithWebIdentity","Principal":{"Federated":"`+provider+`"}`+when("StringEquals", issuer+":sub", subject)+`}`,
		`{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Principal":{"Service":"pods.eks.amazonaws.com"}}`), allow("appmesh:*", "*"))
	p.do(t, p.root, call{"eks", "POST", "/clusters/" + name + "/pod-identity-associations", `{"namespace":"shop","serviceAccount":"orders","roleArn":"` + g.role + `"}`, nil}).ok(t)
	p.mesh(t, p.root, "PUT", "/v20190125/meshes", `{"meshName":"`+name+`"}`).ok(t)
	p.mesh(t, p.root, "PUT", "/v20190125/meshes/"+name+"/virtualNodes", `{"virtualNodeName":"orders","spec":{}}`).ok(t)
	return g
}

// register has our account know a provider.
func (g *gates) register(t testing.TB, address string) string {
	t.Helper()
	return g.query(t, g.plane.root, "iam", "CreateOpenIDConnectProvider", "Url", address, "ClientIDList.member.1", webAudience,
		"Tags.member.1.Key", "evermesh:eks-cluster", "Tags.member.1.Value", g.name).get(t, "OpenIDConnectProviderArn")
}

func (g *gates) all() []gate {
	return []gate{
		{"API", webAudience, func(t testing.TB, token string) (bool, string) {
			t.Helper()
			form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {g.role}, "RoleSessionName": {"attacker"}, "WebIdentityToken": {token}}
			a := g.do(t, nobody, call{"sts", "POST", "/", form.Encode(), []string{"Content-Type", "application/x-www-form-urlencoded"}})
			return a.status < 400, a.body
		}},
		{"EKS Auth", sts.PodAudience, func(t testing.TB, token string) (bool, string) {
			t.Helper()
			text, err := json.Marshal(map[string]string{"token": token})
			if err != nil {
				t.Fatal(err)
			}
			a, err := g.send(t.Context(), nobody, call{"eks-auth", "POST", "/clusters/" + g.name + "/assume-role-for-pod-identity", string(text), nil})
			if err != nil || a.status >= 500 && a.code != "ServiceUnavailableException" {
				t.Errorf("%d %s %v", a.status, a.body, err)
			}
			return a.status < 400, a.body
		}},
		{"stream, by role", webAudience, func(t testing.TB, token string) (bool, string) {
			t.Helper()
			return g.stream(t, token, map[string]string{"x-evermesh-role-arn": g.role})
		}},
		{"stream, by association", sts.PodAudience, func(t testing.TB, token string) (bool, string) {
			t.Helper()
			return g.stream(t, token, map[string]string{"x-evermesh-account": ours})
		}},
	}
}

// stream opens a proxy's stream with a token.
func (g *gates) stream(t testing.TB, token string, headers map[string]string) (bool, string) {
	t.Helper()
	headers["authorization"] = "Bearer " + token
	s := adstest.Open(t, adstest.Dial(t, g.xds), adstest.Options{Node: "mesh/" + g.name + "/virtualNode/orders", Headers: headers, Delta: true})
	defer s.Close()
	if err := s.Send(adstest.Request{Type: adstest.CDS}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err == nil {
		return true, r.String()
	}
	code, text := adstest.Status(err)
	if code != codes.Unauthenticated && code != codes.PermissionDenied && code != codes.Unavailable {
		t.Errorf("the stream ends with %v: %s", code, text)
	}
	return false, text
}

// pod are the claims of the service account's pod, which others stand before.
func (g *gates) pod(audience string, others map[string]any) map[string]any {
	claims := map[string]any{"kubernetes.io": map[string]any{
		"namespace":      "shop",
		"serviceaccount": map[string]any{"name": "orders", "uid": "6f8d2c1e-0000-4000-8000-000000000001"},
		"pod":            map[string]any{"name": "orders-5d9c", "uid": "6f8d2c1e-0000-4000-8000-000000000002"},
	}}
	maps.Copy(claims, others)
	return g.Claims(subject, audience, time.Now(), claims)
}

// part is one part of a token that is made by hand.
func part(t testing.TB, v any) string {
	t.Helper()
	text, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// symmetric signs with a secret, as who takes a public key for one.
func symmetric(t testing.TB, secret []byte, kid string, claims any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Forged tokens of service accounts, at each of the places that take one: the API, EKS
// Auth and the stream of a proxy.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	p := target(t)
	g := newGates(t, p, "forged")
	rsaKey := oidctest.NewKey(t, "rsa", jose.RS256)
	g.Rotate(g.Signer(), rsaKey)
	stranger := oidctest.New(t) // another provider of the account, with a key of the same id
	p.query(t, p.root, "iam", "CreateOpenIDConnectProvider", "Url", stranger.URL, "ClientIDList.member.1", webAudience).ok(t)
	var lured atomic.Int32
	lure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { lured.Add(1) }))
	defer lure.Close()
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	jwk, err := json.Marshal(stranger.Signer().JWK())
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range g.all() {
		claims := func(others map[string]any) map[string]any { return g.pod(to.audience, others) }
		sign := func(others map[string]any) string { return oidctest.Sign(t, g.Signer(), claims(others), nil) }
		by := func(k oidctest.Key, header map[string]any) string { return oidctest.Sign(t, k, claims(nil), header) }
		named := func(id string) oidctest.Key { k := stranger.Signer(); k.ID = id; return k }
		strange := claims(map[string]any{"iss": stranger.URL})
		good := sign(nil)
		parts := strings.Split(good, ".")
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		twice := func(second string) string { // the same claims with one twice, signed as they are
			k, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: stranger.Signer().Private, KeyID: "first"}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := k.Sign([]byte(strings.TrimSuffix(string(payload), "}") + "," + second + "}"))
			if err != nil {
				t.Fatal(err)
			}
			token, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		t.Run(to.name, func(t *testing.T) {
			if ok, text := to.in(t, good); !ok {
				t.Fatalf("a good token is refused: %s", text)
			}
			now := time.Now()
			for name, token := range map[string]string{
				"alg none":                     part(t, map[string]any{"alg": "none"}) + "." + parts[1] + ".",
				"alg nOnE with a signature":    part(t, map[string]any{"alg": "nOnE", "kid": "first"}) + "." + parts[1] + "." + parts[2],
				"no alg":                       part(t, map[string]any{"kid": "first"}) + "." + parts[1] + "." + parts[2],
				"no signature":                 parts[0] + "." + parts[1] + ".",
				"no payload":                   parts[0] + ".." + parts[2],
				"another's signature":          parts[0] + "." + strings.Split(sign(map[string]any{"sub": "system:serviceaccount:kube-system:admin"}), ".")[1] + "." + parts[2],
				"HMAC with the public key":     symmetric(t, public, "rsa", claims(nil)),
				"HMAC with its modulus":        symmetric(t, rsaKey.Private.Public().(*rsa.PublicKey).N.Bytes(), "rsa", claims(nil)),
				"HMAC with its encoding":       symmetric(t, der, "rsa", claims(nil)),
				"HMAC with what is published":  symmetric(t, jwk, "first", claims(nil)),
				"HMAC with an empty key id":    symmetric(t, public, "", claims(nil)),
				"another provider's key":       by(stranger.Signer(), nil),
				"another provider's token":     oidctest.Sign(t, stranger.Signer(), strange, nil),
				"another provider by its name": oidctest.Sign(t, g.Signer(), strange, nil),
				"a key id that is a path":      by(named("../../../../dev/null"), nil),
				"a key id that is a file":      by(named("file:///etc/passwd"), nil),
				"a key id that is an address":  by(named(lure.URL), nil),
				"a key id that is a query":     by(named("first' OR '1'='1"), nil),
				"no key id":                    by(named(""), nil),
				"jku":                          by(stranger.Signer(), map[string]any{"jku": lure.URL + "/keys"}),
				"x5u":                          by(stranger.Signer(), map[string]any{"x5u": lure.URL + "/chain"}),
				"jwk":                          by(stranger.Signer(), map[string]any{"jwk": json.RawMessage(jwk)}),
				"crit":                         oidctest.Sign(t, g.Signer(), claims(nil), map[string]any{"crit": []string{"exp"}, "exp": 1}),
				"another audience":             oidctest.Sign(t, g.Signer(), claims(map[string]any{"aud": "https://kubernetes.default.svc"}), nil),
				"audience in capitals":         sign(map[string]any{"aud": strings.ToUpper(to.audience)}),
				"an audience for more":         sign(map[string]any{"aud": to.audience + ",vault"}),
				"no audience":                  sign(map[string]any{"aud": nil}),
				"no audience, an empty list":   sign(map[string]any{"aud": []string{}}),
				"another issuer":               sign(map[string]any{"iss": "https://attacker.example"}),
				"issuer at the lure":           sign(map[string]any{"iss": lure.URL}),
				"issuer with a user":           sign(map[string]any{"iss": strings.Replace(g.URL, "https://", "https://x@", 1)}),
				"issuer without TLS":           sign(map[string]any{"iss": strings.Replace(g.URL, "https", "http", 1)}),
				"issuer with a path":           sign(map[string]any{"iss": g.URL + "/../"}),
				"issuer with a fragment":       sign(map[string]any{"iss": g.URL + "#@attacker.example"}),
				"no issuer":                    sign(map[string]any{"iss": nil}),
				"expired":                      sign(map[string]any{"exp": now.Add(-time.Second).Unix()}),
				"expired long ago":             sign(map[string]any{"exp": 1}),
				"no expiry":                    sign(map[string]any{"exp": nil}),
				"an expiry that is a text":     sign(map[string]any{"exp": "9999999999"}),
				"not yet":                      sign(map[string]any{"nbf": now.Add(5 * time.Minute).Unix()}),
				"issued tomorrow":              sign(map[string]any{"iat": now.Add(24 * time.Hour).Unix()}),
				"another subject":              sign(map[string]any{"sub": "system:serviceaccount:shop:other", "kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "other"}}}),
				"a subject in capitals":        sign(map[string]any{"sub": strings.ToUpper(subject), "kubernetes.io": map[string]any{"namespace": "SHOP", "serviceaccount": map[string]any{"name": "ORDERS"}}}),
				"no subject":                   sign(map[string]any{"sub": nil, "kubernetes.io": nil}),
				"a claim twice":                twice(`"iss":"` + stranger.URL + `"`),
				"huge":                         good + strings.Repeat("A", 30_000),
				"a huge claim":                 sign(map[string]any{"more": strings.Repeat("A", 30_000)}),
				"a deep claim":                 parts[0] + "." + part(t, `{"a":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`) + "." + parts[2],
				"spaces within":                parts[0] + ". " + parts[1] + "." + parts[2],
				"JSON":                         `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
				"a session's token":            "FwoGZXIvYXdzEBYaD",
				"nothing":                      "x",
			} {
				if ok, text := to.in(t, token); ok {
					t.Errorf("%s: let in: %s", name, text)
				} else if strings.Contains(text, parts[2]) || strings.Contains(text, "127.0.0.1:1") {
					t.Errorf("%s: the refusal tells too much: %s", name, text)
				}
			}
			if ok, text := to.in(t, sign(nil)); !ok {
				t.Errorf("after all that, a good token is refused: %s", text)
			}
		})
	}
	if n := lured.Load(); n > 0 {
		t.Errorf("the attacker's address was asked %d times", n)
	}
}

// Two claims of a name are one too many, even signed with the right key.
func TestClaimsTwice(t *testing.T) {
	t.Parallel()
	g := newGates(t, target(t), "twice")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: g.Signer().Private, KeyID: g.Signer().ID}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range g.all() {
		text, err := json.Marshal(g.pod(to.audience, nil))
		if err != nil {
			t.Fatal(err)
		}
		for _, second := range []string{`"sub":"` + subject + `"`, `"aud":"` + to.audience + `"`, `"exp":9999999999`} {
			signed, err := signer.Sign([]byte(strings.TrimSuffix(string(text), "}") + "," + second + "}"))
			if err != nil {
				t.Fatal(err)
			}
			token, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			if ok, said := to.in(t, token); ok {
				t.Errorf("%s: %s twice: let in: %s", to.name, second, said)
			}
		}
	}
}

// Providers of identities that lead elsewhere, never end, or are where nobody should ask.
func TestHostileProviders(t *testing.T) {
	t.Parallel()
	p := target(t)
	var lured atomic.Int32
	lure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { lured.Add(1); _, _ = w.Write([]byte(`{"keys":[]}`)) }))
	t.Cleanup(lure.Close)
	for name, answer := range map[string]func(g *gates, w http.ResponseWriter, r *http.Request){
		"redirects": func(_ *gates, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, lure.URL+r.URL.Path, http.StatusFound)
		},
		"endless": func(_ *gates, w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
					return
				}
			}
		},
		"silent": func(_ *gates, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"keys-elsewhere": func(g *gates, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"issuer":"` + g.URL + `","jwks_uri":"https://169.254.169.254/latest/meta-data"}`))
		},
		"keys-plain": func(g *gates, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"issuer":"` + g.URL + `","jwks_uri":"` + p.admin + `/metrics"}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGates(t, p, "hostile-"+name)
			g.Answer(func(w http.ResponseWriter, r *http.Request) bool { answer(g, w, r); return true })
			started := time.Now()
			for _, to := range g.all() {
				if ok, text := to.in(t, oidctest.Sign(t, g.Signer(), g.pod(to.audience, nil), nil)); ok || strings.Contains(text, "meta-data") {
					t.Errorf("%s: %s", to.name, text)
				}
			}
			if took := time.Since(started); took > 60*time.Second {
				t.Errorf("it held callers for %v", took)
			}
		})
	}
	t.Run("issuers where nobody should ask", func(t *testing.T) {
		t.Parallel()
		for _, address := range []string{"http://169.254.169.254", "http://127.0.0.1", "file:///etc/passwd", "https://", "gopher://x", "https://x@169.254.169.254", "https://a b", "https://example.com?x=y", "https://example.com#f"} {
			if a := p.query(t, p.root, "iam", "CreateOpenIDConnectProvider", "Url", address, "ClientIDList.member.1", webAudience); a.status < 400 {
				t.Errorf("%s is taken for a provider: %s", address, a.body)
			}
		}
		// Nobody's provider is asked for nothing.
		unknown := oidctest.New(t)
		form := url.Values{
			"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {"arn:aws:iam::" + ours + ":role/none"}, "RoleSessionName": {"attacker"},
			"WebIdentityToken": {unknown.Token(t, subject, webAudience, nil)},
		}
		p.do(t, nobody, call{"sts", "POST", "/", form.Encode(), []string{"Content-Type", "application/x-www-form-urlencoded"}}).refused(t, "a token of nobody's provider", "InvalidIdentityToken", "AccessDenied")
		if n := unknown.Asked(); n != 0 {
			t.Errorf("it was asked %d times", n)
		}
	})
	t.Cleanup(func() {
		if n := lured.Load(); n != 0 {
			t.Errorf("redirects were followed %d times", n)
		}
	})
}
