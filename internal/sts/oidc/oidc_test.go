package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/sts/oidc"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

const (
	subject  = "system:serviceaccount:shop:orders"
	audience = "sts.amazonaws.com"
)

// ground is a provider, and a verifier with a clock of its own.
type ground struct {
	*oidctest.Issuer
	verifier *oidc.Verifier

	mu  sync.Mutex
	now time.Time
}

func newGround(t testing.TB) *ground {
	g := &ground{Issuer: oidctest.New(t), now: time.Now()}
	g.verifier = oidc.New(oidc.Config{CAFile: g.CAFile, Log: slog.New(slog.DiscardHandler), Now: g.time})
	return g
}

func (g *ground) time() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

func (g *ground) pass(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = g.now.Add(d)
}

// verify verifies for an account that knows the provider with one audience.
func (g *ground) verify(raw string) (oidc.Token, error) {
	return g.verifier.Verify(context.Background(), "111122223333", raw, func(issuer string) ([]string, bool) {
		return []string{audience}, issuer == g.URL
	})
}

// token is a good one, but for what claims change.
func (g *ground) token(t testing.TB, claims map[string]any) string {
	return oidctest.Sign(t, g.Signer(), g.Claims(subject, audience, g.time(), claims), nil)
}

func refused(t *testing.T, err error, code, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

const invalid = "InvalidIdentityTokenException"

func TestAlgorithms(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	var keys []oidctest.Key
	for _, a := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384} {
		keys = append(keys, oidctest.NewKey(t, string(a), a))
	}
	g.Rotate(keys...)
	for _, k := range keys {
		got, err := g.verify(oidctest.Sign(t, k, g.Claims(subject, audience, g.time(), nil), nil))
		if err != nil || got.Subject != subject || !slices.Equal(got.Audience, []string{audience}) || got.Issuer != g.URL {
			t.Errorf("%s: got %+v, %v", k.Algorithm, got, err)
		}
	}
	if n := g.Asked(); n != 1 {
		t.Errorf("the keys were asked for %d times, want once", n)
	}
}

// unsigned makes a token by hand.
func unsigned(t *testing.T, header, claims map[string]any, signature string) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	return part(header) + "." + part(claims) + "." + signature
}

// What attackers send: no token of these may pass.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	rsaKey := oidctest.NewKey(t, "rsa", jose.RS256)
	g.Rotate(g.Signer(), rsaKey)
	claims := func(other map[string]any) map[string]any { return g.Claims(subject, audience, g.time(), other) }
	good := g.token(t, nil)
	if _, err := g.verify(good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	stranger := oidctest.NewKey(t, g.Signer().ID, jose.ES256)
	strangerJWK, err := json.Marshal(stranger.JWK())
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(rsaKey.JWK())
	if err != nil {
		t.Fatal(err)
	}
	hmac := func(secret []byte) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: "rsa"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(claims(nil))
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
	encrypter, err := jose.NewEncrypter(jose.A128GCM, jose.Recipient{Algorithm: jose.RSA_OAEP, Key: rsaKey.Private.Public()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := encrypter.Encrypt([]byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := encrypted.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"alg none":                    unsigned(t, map[string]any{"alg": "none"}, claims(nil), ""),
		"alg None, with a key id":     unsigned(t, map[string]any{"alg": "None", "kid": "first"}, claims(nil), ""),
		"alg none, with a signature":  unsigned(t, map[string]any{"alg": "none", "kid": "first"}, claims(nil), parts[2]),
		"no alg":                      unsigned(t, map[string]any{"kid": "first"}, claims(nil), parts[2]),
		"no signature":                parts[0] + "." + parts[1] + ".",
		"HMAC with the public key":    hmac(rsaKey.Private.Public().(*rsa.PublicKey).N.Bytes()),
		"HMAC with the published key": hmac(public),
		"a key of somebody else":      oidctest.Sign(t, stranger, claims(nil), nil),
		"its own key in the header":   oidctest.Sign(t, stranger, claims(nil), map[string]any{"jwk": json.RawMessage(strangerJWK)}),
		"a place of keys":             oidctest.Sign(t, stranger, claims(nil), map[string]any{"jku": "https://attacker.example/keys"}),
		"an unknown key":              oidctest.Sign(t, oidctest.NewKey(t, "other", jose.ES256), claims(nil), nil),
		"a key id that is a path":     oidctest.Sign(t, oidctest.NewKey(t, "../../dev/null", jose.ES256), claims(nil), nil),
		"crit":                        oidctest.Sign(t, g.Signer(), claims(nil), map[string]any{"crit": []string{"exp"}, "exp": 1}),
		"b64":                         oidctest.Sign(t, g.Signer(), claims(nil), map[string]any{"b64": true, "crit": []string{"b64"}}),
		"encrypted":                   jwe,
		"other claims":                parts[0] + "." + strings.Split(g.token(t, map[string]any{"sub": "system:serviceaccount:kube-system:admin"}), ".")[1] + "." + parts[2],
		"EC key id for RSA":           unsigned(t, map[string]any{"alg": "RS256", "kid": "first"}, claims(nil), parts[2]),
		"JSON serialisation":          `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"empty":                       "",
		"dots":                        "..",
		"too long":                    good + strings.Repeat("A", 20000),
		"another issuer":              g.token(t, map[string]any{"iss": "https://attacker.example"}),
		"issuer without TLS":          g.token(t, map[string]any{"iss": strings.Replace(g.URL, "https", "http", 1)}),
		"issuer with a slash":         g.token(t, map[string]any{"iss": g.URL + "/"}),
		"no issuer":                   g.token(t, map[string]any{"iss": nil}),
		"issuers":                     g.token(t, map[string]any{"iss": []string{g.URL, "https://attacker.example"}}),
		"another audience":            g.token(t, map[string]any{"aud": "vault"}),
		"audience in another case":    g.token(t, map[string]any{"aud": "STS.amazonaws.com"}),
		"no audience":                 g.token(t, map[string]any{"aud": nil}),
		"issued to another party":     g.token(t, map[string]any{"azp": "vault"}),
		"no subject":                  g.token(t, map[string]any{"sub": nil}),
		"no expiry":                   g.token(t, map[string]any{"exp": nil}),
		"an expiry that is a text":    g.token(t, map[string]any{"exp": "4102444800"}),
		"no time of issue":            g.token(t, map[string]any{"iat": nil}),
		"issued tomorrow":             g.token(t, map[string]any{"iat": g.time().Add(24 * time.Hour).Unix()}),
		"not yet valid":               g.token(t, map[string]any{"nbf": g.time().Add(2 * time.Minute).Unix()}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := g.verify(token)
			refused(t, err, invalid, "")
			if got.Subject != "" {
				t.Errorf("a refused token says %+v", got)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		_, err := g.verify(g.token(t, map[string]any{"exp": g.time().Unix()}))
		refused(t, err, "ExpiredTokenException", "Token expired")
	})
}

// Keys come and go at the provider; it is asked for a new one, but not at each token.
func TestRotation(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	old, next := g.Signer(), oidctest.NewKey(t, "second", jose.ES256)
	before := g.token(t, nil)
	if _, err := g.verify(before); err != nil {
		t.Fatal(err)
	}
	g.Rotate(next, old)
	after := g.token(t, nil)
	if _, err := g.verify(after); err != nil {
		t.Fatalf("a new key, when its provider was asked a moment ago: %v", err)
	}
	g.Rotate(next)
	if _, err := g.verify(before); err != nil {
		t.Errorf("the old key ends before its provider is asked again: %v", err)
	}
	g.pass(4*time.Minute + 58*time.Second)
	g.verify(after)
	g.pass(time.Minute)
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	_, err := g.verify(oidctest.Sign(t, old, g.Claims(subject, audience, g.time(), nil), nil))
	refused(t, err, invalid, "Couldn't retrieve verification key")
}

// However many key ids there are that nobody has, and however often the provider has new
// keys, it is asked twice in five seconds at most.
func TestUnknownKeysDoNotAskWithoutEnd(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	stranger := oidctest.NewKey(t, "", jose.ES256)
	strange := func() {
		t.Helper()
		for n := range 20 {
			stranger.ID = fmt.Sprint("unknown ", n)
			_, err := g.verify(oidctest.Sign(t, stranger, g.Claims(subject, audience, g.time(), nil), nil))
			refused(t, err, invalid, "Couldn't retrieve verification key")
		}
	}
	asked := func(want int) {
		t.Helper()
		if n := g.Asked(); n != want {
			t.Errorf("asked %d times, want %d", n, want)
		}
	}
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	asked(1)
	strange()
	asked(2)
	next := oidctest.NewKey(t, "next", jose.ES256)
	g.Rotate(next)
	after := g.token(t, nil)
	_, err := g.verify(after)
	refused(t, err, invalid, "Couldn't retrieve verification key") // others have used up what there is
	g.pass(5 * time.Second)
	if _, err := g.verify(after); err != nil {
		t.Error(err)
	}
	asked(3)
	strange()
	asked(4)
	for range 5 {
		g.pass(5 * time.Second)
		strange()
	}
	asked(9)
	// New keys at each token do not have it asked more often.
	g.pass(5 * time.Second)
	for n := range 20 {
		g.Rotate(oidctest.NewKey(t, fmt.Sprint("key ", n), jose.ES256))
		g.verify(g.token(t, nil))
	}
	asked(11)
}

// A provider that is away does not end what its keys vouch for at once, nor for ever.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	g.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "secret text of the inner network", http.StatusBadGateway)
		return true
	})
	g.pass(30 * time.Minute)
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Errorf("after half an hour: %v", err)
	}
	g.pass(31 * time.Minute)
	_, err := g.verify(g.token(t, nil))
	refused(t, err, "IDPCommunicationErrorException", g.URL)
	if err != nil && strings.Contains(err.Error(), "inner network") {
		t.Errorf("the refusal tells what was answered: %v", err)
	}
	g.Answer(nil)
	g.pass(11 * time.Second) // the pause after two that failed is 10 s
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

// What a provider answers is bounded and must be about itself.
func TestOddProviders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer func(g *ground, w http.ResponseWriter, r *http.Request) bool
	}{
		{"another issuer in discovery", func(_ *ground, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/keys" {
				return false
			}
			fmt.Fprintf(w, `{"issuer":"https://other.example","jwks_uri":"https://%s/keys"}`, r.Host)
			return true
		}},
		{"keys without TLS", func(g *ground, w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://%s/keys"}`, g.URL, r.Host)
			return r.URL.Path != "/keys"
		}},
		{"keys in a file", func(g *ground, w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, g.URL)
			return true
		}},
		{"keys at the metadata of a cloud", func(g *ground, w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://169.254.169.254/keys"}`, g.URL)
			return true
		}},
		{"a redirect", func(_ *ground, w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/keys" {
				return false
			}
			http.Redirect(w, r, "/moved", http.StatusFound)
			return true
		}},
		{"a document without end", func(_ *ground, w http.ResponseWriter, r *http.Request) bool {
			for range 300 {
				if _, err := w.Write([]byte(strings.Repeat(" ", 1024))); err != nil {
					break
				}
			}
			fmt.Fprint(w, `{}`)
			return true
		}},
		{"no JSON", func(_ *ground, w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, "<html>")
			return true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGround(t)
			g.Answer(func(w http.ResponseWriter, r *http.Request) bool { return c.answer(g, w, r) })
			_, err := g.verify(g.token(t, nil))
			refused(t, err, "IDPCommunicationErrorException", g.URL)
		})
	}
	t.Run("keys that are none", func(t *testing.T) {
		t.Parallel()
		g := newGround(t)
		weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
		if err != nil {
			t.Skip("this Go makes no weak keys")
		}
		short := oidctest.Key{ID: "short", Algorithm: jose.RS256, Private: weak}
		encryption := g.Signer().JWK()
		encryption.KeyID, encryption.Use = "enc", "enc"
		g.Publish(
			jose.JSONWebKey{Key: []byte("a symmetric key"), KeyID: "oct"}, short.JWK(), encryption, g.Signer().JWK(),
		)
		if _, err := g.verify(g.token(t, nil)); err != nil {
			t.Errorf("the good key among others: %v", err)
		}
		enc := g.Signer()
		enc.ID = "enc"
		for _, k := range []oidctest.Key{short, enc} {
			_, err := g.verify(oidctest.Sign(t, k, g.Claims(subject, audience, g.time(), nil), nil))
			refused(t, err, invalid, "")
		}
	})
}

// No issuer is asked that no account has registered.
func TestUnknownIssuerIsNotAsked(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	_, err := g.verifier.Verify(t.Context(), "111122223333", g.token(t, nil), func(string) ([]string, bool) { return nil, false })
	refused(t, err, invalid, "No OpenIDConnect provider found in your account for "+g.URL)
	if n := g.Asked(); n != 0 {
		t.Errorf("its keys were asked for %d times", n)
	}
}

// The party that a token was issued to stands before its audiences.
func TestAuthorizedParty(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	got, err := g.verify(g.token(t, map[string]any{"aud": []string{"other"}, "azp": audience}))
	if err != nil || !slices.Equal(got.Audience, []string{audience}) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = g.verify(g.token(t, map[string]any{"aud": []string{"vault", audience}}))
	if err != nil || !slices.Equal(got.Audience, []string{audience}) {
		t.Errorf("of two audiences only the registered one counts: got %+v, %v", got, err)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	token := g.token(t, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := g.verify(token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := g.Asked(); n != 1 {
		t.Errorf("the keys were asked for %d times, want once", n)
	}
}

// Whatever a stranger sends as token is refused with one of AWS's codes.
func FuzzVerify(f *testing.F) {
	g := newGround(f)
	good := g.token(f, nil)
	parts := strings.Split(good, ".")
	f.Add(parts[0], parts[1], parts[2][:40])
	f.Add("eyJhbGciOiJub25lIn0", parts[1], "")
	f.Add("eyJhbGciOiJIUzI1NiJ9", parts[1], parts[2])
	f.Add("e30", "e30", "")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, header, claims, signature string) {
		raw := header + "." + claims + "." + signature
		oidc.Issuer(raw)
		got, err := g.verify(raw)
		if err == nil {
			if raw == good {
				return
			}
			t.Fatalf("passed: %+v", got)
		}
		if _, ok := errors.AsType[*api.Error](err); !ok {
			t.Fatalf("got %v, want a refusal", err)
		}
	})
}
