// Package oidc verifies the tokens of OpenID Connect providers, such as those that
// Kubernetes gives its service accounts: who signed one, for whom, until when.
//
// Start with Verifier.Verify. A token is only read as far as its issuer before an
// account vouches for that: no key is fetched for an issuer that nobody registered
// (issuer.go fetches, keys.go keeps). Then the signature is checked with one of the
// issuer's keys, and after that the claims. Refusals are *api.Error in the words of
// AWS STS.
package oidc

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
)

const (
	// maxToken bounds a token, in bytes; it is the model's bound of WebIdentityToken.
	maxToken = 20000
	// leeway is how far an issuer's clock may be ahead. An expiry gets none.
	leeway = time.Minute
)

// algorithms are the signatures that count. They are all asymmetric: with a public
// key as the secret of an HMAC anybody could sign.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384,
}

// Token is what a token says, once it is verified.
type Token struct {
	Issuer  string // https://oidc.example/id/1
	Subject string // system:serviceaccount:shop:orders
	// Audience is whom the token is for: those of its audiences that the provider
	// knows, or the party that it was issued to (azp) when it names that.
	Audience        []string
	Issued, Expires time.Time
	Claims          map[string]any
}

// Name is the issuer as ARNs and condition keys have it: without its scheme.
func Name(issuer string) string { return strings.TrimPrefix(issuer, "https://") }

// Config is what New needs.
type Config struct {
	// CAFile is PEM of authorities that count beside the system's, read at each fetch
	// (--oidc-ca-file); empty for none.
	CAFile string
	Log    *slog.Logger
	Now    func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	keys *keys
	now  func() time.Time
}

// New makes a Verifier, which knows no keys yet.
func New(c Config) *Verifier { return &Verifier{keys: newKeys(c), now: c.Now} }

// Verify reads and verifies a token for an account. audiences tells which audiences the account has
// registered for an issuer (its client ids), and whether it knows the issuer at all;
// nothing is asked of one that it does not know. Refusals are
//
//	InvalidIdentityToken        no token, an unknown issuer, audience or key, a bad signature
//	ExpiredTokenException       it is over
//	IDPCommunicationError       its issuer's keys cannot be had, or a new one of them
func (v *Verifier) Verify(ctx context.Context, account, raw string, audiences func(issuer string) ([]string, bool)) (Token, error) {
	signed, claims, err := parse(raw)
	if err != nil {
		return Token{}, err
	}
	known, ok := audiences(claims.Issuer)
	if !ok || !strings.HasPrefix(claims.Issuer, "https://") {
		return Token{}, invalid("No OpenIDConnect provider found in your account for %s", shown(claims.Issuer))
	}
	header := signed.Headers[0]
	key, err := v.keys.of(account).find(ctx, claims.Issuer, header.KeyID, header.Algorithm)
	if err != nil {
		return Token{}, err
	}
	var all map[string]any
	if err := signed.Claims(key, &all); err != nil {
		return Token{}, invalid("The signature of the token does not match its issuer's key")
	}
	return v.check(claims, all, known)
}

// Issuer reads the issuer of a token that nobody has verified; empty when it is none.
// It is good for finding out who could vouch for it, and for nothing else.
func Issuer(raw string) string {
	_, c, err := parse(raw)
	if err != nil {
		return ""
	}
	return c.Issuer
}

// Subject is Issuer for the subject.
func Subject(raw string) string {
	_, c, err := parse(raw)
	if err != nil {
		return ""
	}
	return c.Subject
}

// parse takes a token apart, and refuses every form but the plain one: three parts,
// one signature of an algorithm that counts, no header that changes what is signed.
func parse(raw string) (*jwt.JSONWebToken, claims, error) {
	bad := invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
	if len(raw) > maxToken || strings.Count(raw, ".") != 2 {
		return nil, claims{}, bad
	}
	signed, err := jwt.ParseSigned(raw, algorithms)
	if err != nil || len(signed.Headers) != 1 {
		return nil, claims{}, bad
	}
	for name := range signed.Headers[0].ExtraHeaders {
		if name == "crit" || name == "b64" {
			return nil, claims{}, bad
		}
	}
	var c claims
	if err := signed.UnsafeClaimsWithoutVerification(&c); err != nil || c.Issuer == "" {
		return nil, claims{}, bad
	}
	return signed, c, nil
}

// claims are those that are checked; pointers tell what is missing.
type claims struct {
	Issuer    string           `json:"iss"`
	Subject   string           `json:"sub"`
	Audience  jwt.Audience     `json:"aud"`
	Party     string           `json:"azp"`
	Expires   *jwt.NumericDate `json:"exp"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	Issued    *jwt.NumericDate `json:"iat"`
}

func (v *Verifier) check(c claims, all map[string]any, known []string) (Token, error) {
	now := v.now()
	switch {
	case c.Subject == "":
		return Token{}, invalid("Missing a required claim: sub")
	case c.Expires == nil:
		return Token{}, invalid("Missing a required claim: exp")
	case c.Issued == nil:
		return Token{}, invalid("Missing a required claim: iat")
	case !now.Before(c.Expires.Time()):
		return Token{}, api.Errorf(stsapi.CodeExpiredToken, "Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), c.Expires.Time().Unix())
	case c.NotBefore != nil && c.NotBefore.Time().After(now.Add(leeway)), c.Issued.Time().After(now.Add(leeway)):
		return Token{}, invalid("Token is not valid yet")
	}
	parties := []string(c.Audience)
	if c.Party != "" {
		parties = []string{c.Party}
	}
	var audience []string
	for _, a := range parties {
		if slices.Contains(known, a) {
			audience = append(audience, a)
		}
	}
	if len(audience) == 0 {
		return Token{}, invalid("Incorrect token audience")
	}
	return Token{
		Issuer: c.Issuer, Subject: c.Subject, Audience: audience,
		Issued: c.Issued.Time(), Expires: c.Expires.Time(), Claims: all,
	}, nil
}

// Claim is a claim as a condition key has it: its texts, or nil for another type.
func (t Token) Claim(name string) []string {
	switch c := t.Claims[name].(type) {
	case string:
		return []string{c}
	case bool, float64, json.Number:
		text, err := json.Marshal(c)
		if err != nil {
			return nil
		}
		return []string{string(text)}
	case []any:
		var all []string
		for _, x := range c {
			if s, ok := x.(string); ok {
				all = append(all, s)
			}
		}
		return all
	}
	return nil
}

func invalid(format string, args ...any) error {
	return api.Errorf(stsapi.CodeInvalidIdentityToken, format, args...)
}

// shown is a part of a token for a message, shortened.
func shown(s string) string {
	if len(s) > 128 {
		s = s[:128] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
