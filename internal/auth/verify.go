package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxSkew is how far the clocks of caller and server may differ, and how long a
// signature can be replayed. AWS documents 5 minutes for most services and 15
// for a few; App Mesh was one of the most.
const maxSkew = 5 * time.Minute

// Verifier verifies signatures. It is safe for concurrent use.
type Verifier struct {
	keys     Keys
	region   string
	services []string
	now      func() time.Time
	derived  signingKeys
}

// NewVerifier makes a Verifier that looks access keys up in keys and accepts
// signatures for that region and for any of the services (signing names, such as
// appmesh and appmesh-preview); those for iam and sts also for the region that stands
// for all. now is the server's clock, time.Now.
func NewVerifier(keys Keys, region string, services []string, now func() time.Time) *Verifier {
	return &Verifier{keys: keys, region: region, services: slices.Clone(services), now: now}
}

// Verify returns who signed the request. Its refusals are *api.Error:
//
//	not signed                                     403 MissingAuthenticationTokenException
//	malformed, or a date unlike the scope's        400 IncompleteSignatureException
//	access key or session token not known          403 UnrecognizedClientException
//	altered, too old, for another region, …        403 InvalidSignatureException
//	session over                                   403 ExpiredTokenException
//
// Any other error is the Keys' own.
func (v *Verifier) Verify(ctx context.Context, r Request) (Principal, error) {
	m, err := read(r)
	if err != nil {
		return Principal{}, err
	}
	s, err := m.signature()
	if err != nil {
		return Principal{}, err
	}
	c, found, err := v.keys.Credential(ctx, s.accessKeyID, s.token)
	switch {
	case err != nil:
		return Principal{}, fmt.Errorf("look up access key: %w", err)
	case !found:
		return Principal{}, unrecognized()
	}
	now := v.now()
	if err := v.accepts(s, now); err != nil {
		return Principal{}, err
	}
	if err := m.covers(s.headers); err != nil {
		return Principal{}, err
	}
	payload, err := m.payload()
	if err != nil {
		return Principal{}, err
	}
	if !v.matches(m, s, c.Secret, payload) {
		return Principal{}, mismatch()
	}
	if subtle.ConstantTimeCompare([]byte(s.token), []byte(c.SessionToken)) != 1 {
		return Principal{}, unrecognized()
	}
	if !c.Expires.IsZero() && !now.Before(c.Expires) {
		return Principal{}, expiredToken()
	}
	p := c.Principal
	p.AccessKeyID = s.accessKeyID
	return p, nil
}

// global says whether a signature is for a service that AWS has once for a partition,
// and for the region that stands for all of it: clients sign so, whatever region they
// are told. With an endpoint of its own, a client may sign for that.
func (s scope) global() bool {
	switch s.region {
	case "us-east-1", "cn-north-1", "us-gov-west-1":
		return s.service == "iam" || s.service == "sts"
	}
	return false
}

// accepts checks what a signature is for, and when.
func (v *Verifier) accepts(s signature, now time.Time) error {
	switch {
	case s.scope.region != v.region && !s.scope.global():
		return invalid("Credential should be scoped to a valid region, not '%s'.", shown(s.scope.region))
	case !slices.Contains(v.services, s.scope.service):
		return invalid("Credential should be scoped to correct service: '%s'.", strings.Join(v.services, "' or '"))
	case s.signed.After(now.Add(maxSkew)):
		return tooNew(s.signed, now)
	}
	within := maxSkew
	if s.presigned {
		within = s.expires
	}
	if s.signed.Before(now.Add(-within)) {
		return tooOld(s.signed, now, within)
	}
	return nil
}

// matches computes the signature of each form that the request may have been
// signed in and compares.
func (v *Verifier) matches(m *message, s signature, secret Secret, payload string) bool {
	key, cached := v.derived.get(s.accessKeyID, s.scope, secret)
	if !cached {
		key = derive(secret, s.scope)
	}
	day := algorithm + "\n" + stamp(s.signed) + "\n" + s.scope.String() + "\n"
	buffer := make([]byte, 0, 1024)
	for path, query := range m.forms {
		sum := sha256.Sum256(m.canonical(buffer, path, query, s.headers, payload))
		text := hex.AppendEncode(append(buffer, day...), sum[:])
		h := hmac.New(sha256.New, key)
		h.Write(text)
		if !hmac.Equal(hex.AppendEncode(buffer, h.Sum(nil)), []byte(s.sum)) {
			continue
		}
		if !cached {
			// Only now: what strangers make up must not push real keys out.
			v.derived.put(s.accessKeyID, s.scope, secret, key)
		}
		return true
	}
	return false
}
