package auth_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/auth"
)

// An attacker who has seen a signed request changes one thing in it. Nothing of what
// the signature covers can be changed, and no change makes it good for longer.
func TestAlteredRequests(t *testing.T) {
	t.Parallel()
	const body = `{"meshName":"apps","tags":[{"key":"a","value":"b"}]}`
	signed := func() auth.Request {
		r := request(t, "PUT", "http://control.example:7070/v20190125/meshes/apps?limit=5&nextToken=x", body, "X-Amz-Content-Sha256", hash(body), "Content-Type", "application/json")
		sign(t, r, temporary, "us-east-1", "appmesh", hash(body), noon)
		return arrived(t, r)
	}
	if _, err := verifier(noon).Verify(t.Context(), signed()); err != nil {
		t.Fatal(err)
	}
	authorization := signed().Header.Get("Authorization")
	i := strings.Index(authorization, "Signature=") + len("Signature=")
	alter := map[string]func(r *auth.Request){
		"method":             func(r *auth.Request) { r.Method = "DELETE" },
		"path":               func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "apps", "bank", 1) },
		"path, encoded":      func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "apps", "%61pps", 1) },
		"query":              func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "limit=5", "limit=9", 1) },
		"query, more":        func(r *auth.Request) { r.RequestURI += "&meshOwner=444455556666" },
		"query, less":        func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "&nextToken=x", "", 1) },
		"host":               func(r *auth.Request) { r.Host = "other.example:7070" },
		"body":               func(r *auth.Request) { r.Body = []byte(strings.Replace(body, "apps", "bank", 1)) },
		"body, none":         func(r *auth.Request) { r.Body = nil },
		"body, more":         func(r *auth.Request) { r.Body = append([]byte(body), ' ') },
		"body and its hash":  func(r *auth.Request) { r.Body = nil; r.Header.Set("X-Amz-Content-Sha256", hash("")) },
		"hash not to be":     func(r *auth.Request) { r.Body = nil; r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") },
		"date":               func(r *auth.Request) { r.Header.Set("X-Amz-Date", noon.Add(time.Minute).Format("20060102T150405Z")) },
		"session token":      func(r *auth.Request) { r.Header.Set("X-Amz-Security-Token", "another") },
		"no session token":   func(r *auth.Request) { r.Header.Del("X-Amz-Security-Token") },
		"another amz header": func(r *auth.Request) { r.Header.Set("X-Amz-Target", "AmazonSSM.GetParameter") },
		"a header twice":     func(r *auth.Request) { r.Header.Add("X-Amz-Date", r.Header.Get("X-Amz-Date")) },
		"another key": func(r *auth.Request) {
			r.Header.Set("Authorization", strings.Replace(authorization, temporaryID, lastingID, 1))
		},
		"another region": func(r *auth.Request) {
			r.Header.Set("Authorization", strings.Replace(authorization, "us-east-1", "eu-west-1", 1))
		},
		"another service": func(r *auth.Request) {
			r.Header.Set("Authorization", strings.Replace(authorization, "/appmesh/", "/iam/", 1))
		},
		"fewer headers signed": func(r *auth.Request) {
			r.Header.Set("Authorization", strings.Replace(authorization, "x-amz-security-token", "", 1))
		},
		"signature in capitals": func(r *auth.Request) {
			r.Header.Set("Authorization", authorization[:i]+strings.ToUpper(authorization[i:]))
		},
		"signature, more":              func(r *auth.Request) { r.Header.Set("Authorization", authorization+"0") },
		"signature, none":              func(r *auth.Request) { r.Header.Set("Authorization", authorization[:i]) },
		"no authorization":             func(r *auth.Request) { r.Header.Del("Authorization") },
		"two authorizations":           func(r *auth.Request) { r.Header.Add("Authorization", authorization) },
		"a verb that asks for another": func(r *auth.Request) { r.Method = "put" },
	}
	for n := range 64 { // each digit of the signature
		alter[fmt.Sprintf("digit %d of the signature", n)] = func(r *auth.Request) {
			digit := byte('0')
			if authorization[i+n] == '0' {
				digit = '1'
			}
			r.Header.Set("Authorization", authorization[:i+n]+string(digit)+authorization[i+n+1:])
		}
	}
	for name, change := range alter {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := signed()
			r.Header = r.Header.Clone()
			change(&r)
			if p, err := verifier(noon).Verify(t.Context(), r); err == nil || p != (auth.Principal{}) {
				t.Errorf("it passed as %+v, %v", p, err)
			}
		})
	}
}

// A request that is sent again is good for as long as AWS documents, on every replica,
// and not a second longer; a clock that is wrong by more than that is refused both ways.
func TestReplay(t *testing.T) {
	t.Parallel()
	r := good(t)
	for _, c := range []struct {
		after time.Duration
		ok    bool
	}{
		{0, true},
		{0, true},
		{5 * time.Minute, true},
		{5*time.Minute + time.Second, false},
		{time.Hour, false},
		{24 * time.Hour, false},
		{-5 * time.Minute, true},
		{-5*time.Minute - time.Second, false},
	} {
		_, err := verifier(noon.Add(c.after)).Verify(t.Context(), r)
		if (err == nil) != c.ok {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
}
