// Package oidctest is an OpenID Connect provider for tests, such as a Kubernetes API
// server is one: it serves its discovery document and its keys over TLS, and signs
// tokens.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Issuer is a provider. Its functions may be called while it serves.
type Issuer struct {
	URL    string // https://127.0.0.1:1234
	CAFile string // PEM

	server *httptest.Server
	mu     sync.Mutex
	keys   []jose.JSONWebKey // public
	signer Key
	asked  map[string]int
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// Key is a key of a provider.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
}

// New starts a provider with one key, of ES256. It ends with the test.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{asked: map[string]int{}}
	i.server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.server.Close)
	i.URL = i.server.URL
	i.CAFile = filepath.Join(t.TempDir(), "issuer-ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
	if err := os.WriteFile(i.CAFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	i.Rotate(NewKey(t, "first", jose.ES256))
	return i
}

// NewKey makes a key for an algorithm.
func NewKey(t testing.TB, id string, algorithm jose.SignatureAlgorithm) Key {
	t.Helper()
	k := Key{ID: id, Algorithm: algorithm}
	var err error
	switch algorithm {
	case jose.ES256:
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		k.Private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// JWK is the public key as it is published.
func (k Key) JWK() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"}
}

// Rotate publishes these keys and no others, and signs with the first.
func (i *Issuer) Rotate(keys ...Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.signer, i.keys = keys[0], nil
	for _, k := range keys {
		i.keys = append(i.keys, k.JWK())
	}
}

// Publish publishes exactly these keys, whatever they are.
func (i *Issuer) Publish(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Answer has requests answered by f as long as it returns true; nil ends that.
func (i *Issuer) Answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// Asked is how often the keys were asked for.
func (i *Issuer) Asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked["/keys"]
}

// Signer is the key that signs.
func (i *Issuer) Signer() Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.signer
}

// Token signs a token for a subject, for five minutes from now on; claims stand
// before those.
func (i *Issuer) Token(t testing.TB, subject, audience string, claims map[string]any) string {
	t.Helper()
	return Sign(t, i.Signer(), i.Claims(subject, audience, time.Now(), claims), nil)
}

// ServiceAccount signs a token as Kubernetes does for a pod.
func (i *Issuer) ServiceAccount(t testing.TB, namespace, account, audience string) string {
	t.Helper()
	return i.Token(t, "system:serviceaccount:"+namespace+":"+account, audience, map[string]any{
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"serviceaccount": map[string]any{"name": account, "uid": "6f8d2c1e-0000-4000-8000-000000000001"},
			"pod":            map[string]any{"name": account + "-5d9c", "uid": "6f8d2c1e-0000-4000-8000-000000000002"},
		},
	})
}

// Claims are those of a token that is good at now; other claims stand before them,
// and nil takes one out.
func (i *Issuer) Claims(subject, audience string, now time.Time, other map[string]any) map[string]any {
	all := map[string]any{
		"iss": i.URL, "sub": subject, "aud": []string{audience},
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	for name, value := range other {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// Sign signs claims with a key; header has further members of the header.
func Sign(t testing.TB, k Key, claims, header map[string]any) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	for name, value := range header {
		o = o.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: jose.JSONWebKey{Key: k.Private, KeyID: k.ID}}, o)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	answer, keys := i.answer, i.keys
	i.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		})
	case "/keys":
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(w, r)
	}
}
