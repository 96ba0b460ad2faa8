package auth_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/auth"
)

const (
	missing      = "MissingAuthenticationTokenException"
	incomplete   = "IncompleteSignatureException"
	unrecognized = "UnrecognizedClientException"
	invalid      = "InvalidSignatureException"
	expired      = "ExpiredTokenException"

	mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)

// good is a request that is accepted: signed now, as temporary credentials sign.
func good(t *testing.T) auth.Request {
	t.Helper()
	const body = `{"meshName":"apps"}`
	r := request(t, "PUT", "http://127.0.0.1:7070/v20190125/meshes?a=1&b=2", body,
		"Content-Type", "application/json", "X-Amz-Meta", "kept")
	sign(t, r, temporary, "us-east-1", "appmesh", hash(body), noon)
	return arrived(t, r)
}

// replace edits the Authorization header.
func replace(r *auth.Request, from, to string) {
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), from, to, 1))
}

// One change to a request that is accepted, and how that is refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	later := func(d time.Duration) time.Time { return noon.Add(d) }
	cases := []struct {
		name    string
		change  func(r *auth.Request)
		at      time.Time // the server's clock; noon when zero
		status  int
		code    string
		message string
	}{
		{"not signed", func(r *auth.Request) { r.Header.Del("Authorization") }, noon, 403, missing, "Missing Authentication Token"},
		{"empty header", func(r *auth.Request) { r.Header.Set("Authorization", " ") }, noon, 403, missing, "Missing Authentication Token"},

		{
			"another scheme", func(r *auth.Request) { r.Header.Set("Authorization", "Basic YTpi") }, noon, 400, incomplete,
			"Invalid key=value pair (missing equal-sign) in Authorization header (hashed with SHA-256 and encoded with Base64): 'O133MeQGsSG8M/c3mxecXZJzUhCDu+9BD3DsZ39/mpI='.",
		},
		{
			"another algorithm", func(r *auth.Request) { replace(r, "AWS4-HMAC-SHA256", "AWS4-HMAC-MD5") }, noon, 400, incomplete,
			"Unsupported AWS 'algorithm': 'AWS4-HMAC-MD5'.",
		},
		{
			"two headers", func(r *auth.Request) { r.Header.Add("Authorization", "x") }, noon, 400, incomplete,
			"Header 'authorization' must not be there 2 times.",
		},
		{
			"header and query", func(r *auth.Request) { r.RequestURI += "&X-Amz-Signature=0" }, noon, 400, incomplete,
			"A request is signed in its Authorization header or in its query-string parameters, not in both.",
		},
		{
			"a parameter twice", func(r *auth.Request) { replace(r, "Signature=", "Signature=0, Signature=") }, noon, 400, incomplete,
			"Authorization header has parameter 'Signature' more than once.",
		},
		{
			"short credential", func(r *auth.Request) { replace(r, "/us-east-1/appmesh/aws4_request", "") }, noon, 400, incomplete,
			"Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'ASIAIOSFODNN7EXAMPLE/20260301'",
		},
		{
			"terminator", func(r *auth.Request) { replace(r, "aws4_request", "aws5_request") }, noon, 400, incomplete,
			"Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'.",
		},
		{
			"date unlike the scope's", func(r *auth.Request) { replace(r, "/20260301/", "/20260302/") }, noon, 400, incomplete,
			"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20260302' != '20260301', from '20260301T120000Z'.",
		},
		{
			"date in words", func(r *auth.Request) { r.Header.Set("X-Amz-Date", "today") }, noon, 400, incomplete,
			"Date must be in ISO-8601 'basic format'. Got 'today'. See http://en.wikipedia.org/wiki/ISO_8601",
		},
		{
			"unsorted SignedHeaders", func(r *auth.Request) { replace(r, "content-length;content-type", "content-type;content-length") }, noon, 400, incomplete,
			"SignedHeaders must be header names in lower case and ascending order, delimited by semicolons, got 'content-type;content-length;host;x-amz-date;x-amz-meta;x-amz-sec...'.",
		},
		{
			"bad query", func(r *auth.Request) { r.RequestURI += "&c=%zz" }, noon, 400, incomplete,
			"Value of query-string parameter 'c' is not valid percent-encoding.",
		},

		{
			"unknown key", func(r *auth.Request) { replace(r, temporaryID, "ASIAUNKNOWN") }, noon, 403, unrecognized,
			"The security token included in the request is invalid.",
		},

		{
			"API-042 another region", func(r *auth.Request) { replace(r, "us-east-1", "eu-west-1") }, noon, 403, invalid,
			"Credential should be scoped to a valid region, not 'eu-west-1'.",
		},
		{
			"another service", func(r *auth.Request) { replace(r, "/appmesh/", "/s3/") }, noon, 403, invalid,
			"Credential should be scoped to correct service: 'appmesh' or 'appmesh-preview'.",
		},
		{
			"too old", func(*auth.Request) {}, later(5*time.Minute + time.Second), 403, invalid,
			"Signature expired: 20260301T120000Z is now earlier than 20260301T120001Z (20260301T120501Z - 5 min.)",
		},
		{
			"too new", func(*auth.Request) {}, later(-5*time.Minute - time.Second), 403, invalid,
			"Signature not yet current: 20260301T120000Z is still later than 20260301T115959Z (20260301T115459Z + 5 min.)",
		},
		{
			"host not signed", func(r *auth.Request) { replace(r, "host;", "") }, noon, 403, invalid,
			"'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
		},
		{
			"x-amz header not signed", func(r *auth.Request) { replace(r, "x-amz-meta;", "") }, noon, 403, invalid,
			"There were headers present in the request which were not signed: x-amz-meta",
		},
		{
			"x-amz header added", func(r *auth.Request) { r.Header.Set("X-Amz-Target", "other") }, noon, 403, invalid,
			"There were headers present in the request which were not signed: x-amz-target",
		},
		{"signed header lost", func(r *auth.Request) { r.Header.Del("Content-Type") }, noon, 403, invalid, mismatch},
		{"signed header altered", func(r *auth.Request) { r.Header.Set("Content-Type", "text/json") }, noon, 403, invalid, mismatch},
		{"signed header more", func(r *auth.Request) { r.Header.Add("X-Amz-Meta", "more") }, noon, 403, invalid, mismatch},
		{"host altered", func(r *auth.Request) { r.Host = "127.0.0.1:7071" }, noon, 403, invalid, mismatch},
		{"method altered", func(r *auth.Request) { r.Method = "DELETE" }, noon, 403, invalid, mismatch},
		{"path altered", func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "meshes", "meshe%73", 1) }, noon, 403, invalid, mismatch},
		{"query altered", func(r *auth.Request) { r.RequestURI = strings.Replace(r.RequestURI, "b=2", "b=3", 1) }, noon, 403, invalid, mismatch},
		{"query longer", func(r *auth.Request) { r.RequestURI += "&c" }, noon, 403, invalid, mismatch},
		{"body altered", func(r *auth.Request) { r.Body[5] ^= 1 }, noon, 403, invalid, mismatch},
		{"time altered", func(r *auth.Request) { r.Header.Set("X-Amz-Date", "20260301T120001Z") }, noon, 403, invalid, mismatch},
		{"signature altered", func(r *auth.Request) {
			sum := r.Header.Get("Authorization")
			r.Header.Set("Authorization", sum[:len(sum)-1]+string(sum[len(sum)-1]^1))
		}, noon, 403, invalid, mismatch},
		{"signature cut", func(r *auth.Request) {
			cut := r.Header.Get("Authorization")
			r.Header.Set("Authorization", cut[:len(cut)-1])
		}, noon, 403, invalid, mismatch},
		{
			"another key of the account", func(r *auth.Request) { replace(r, temporaryID, lastingID) }, noon, 403, unrecognized,
			"The security token included in the request is invalid.",
		},
		{"session token altered", func(r *auth.Request) { r.Header.Set("X-Amz-Security-Token", "other") }, noon, 403, invalid, mismatch},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := good(t)
			if _, err := verifier(noon).Verify(t.Context(), r); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			c.change(&r)
			_, err := verifier(c.at).Verify(t.Context(), r)
			refused(t, err, c.status, c.code, c.message)
		})
	}
}

func TestIncompleteAuthorization(t *testing.T) {
	t.Parallel()
	t.Run("API-004 all that is missing is named", func(t *testing.T) {
		t.Parallel()
		r := auth.Request{Method: "GET", RequestURI: "/", Host: "h", Header: http.Header{"Authorization": {"AWS4-HMAC-SHA256 "}}}
		_, err := verifier(noon).Verify(t.Context(), r)
		refused(t, err, 400, incomplete, "Authorization header requires 'Credential' parameter. "+
			"Authorization header requires 'Signature' parameter. "+
			"Authorization header requires 'SignedHeaders' parameter. "+
			"Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "+
			"(Hashed with SHA-256 and encoded with Base64) Authorization=CiYVUkvqEFxnqOZfl+qKLWniec690XZ/NzTormsckxs=")
	})
	t.Run("of a presigned request too", func(t *testing.T) {
		t.Parallel()
		r := auth.Request{Method: "GET", RequestURI: "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20260301T120000Z&X-Amz-Expires=60", Host: "h"}
		_, err := verifier(noon).Verify(t.Context(), r)
		refused(t, err, 400, incomplete, "AWS query-string parameters must include 'X-Amz-Credential'. "+
			"AWS query-string parameters must include 'X-Amz-SignedHeaders'. "+
			"AWS query-string parameters must include 'X-Amz-Signature'. Re-examine the query-string parameters.")
	})
}

func TestTemporaryKeys(t *testing.T) {
	t.Parallel()
	signed := func(t *testing.T, c aws.Credentials, at time.Time) auth.Request {
		r := request(t, "GET", "http://127.0.0.1:7070/v20190125/meshes", "")
		sign(t, r, c, "us-east-1", "appmesh", hash(""), at)
		return arrived(t, r)
	}
	t.Run("IAM-014 accepted with their token", func(t *testing.T) {
		t.Parallel()
		p, err := verifier(noon).Verify(t.Context(), signed(t, temporary, noon))
		if err != nil || p.Account != root.Account || p.AccessKeyID != temporaryID {
			t.Errorf("got %+v, %v", p, err)
		}
	})
	t.Run("refused with another token", func(t *testing.T) {
		t.Parallel()
		other := temporary
		other.SessionToken = "other"
		_, err := verifier(noon).Verify(t.Context(), signed(t, other, noon))
		refused(t, err, 403, unrecognized, "The security token included in the request is invalid.")
	})
	t.Run("a lasting key with a token is refused", func(t *testing.T) {
		t.Parallel()
		odd := lasting
		odd.SessionToken = token
		_, err := verifier(noon).Verify(t.Context(), signed(t, odd, noon))
		refused(t, err, 403, unrecognized, "The security token included in the request is invalid.")
	})
	t.Run("over when they expire", func(t *testing.T) {
		t.Parallel()
		end := noon.Add(time.Hour)
		_, err := verifier(end).Verify(t.Context(), signed(t, temporary, end))
		refused(t, err, 403, expired, "The security token included in the request is expired")
	})
}

// IAM and STS are global: clients sign for the region that stands for all.
func TestGlobalServices(t *testing.T) {
	t.Parallel()
	v := auth.NewVerifier(directory(), "eu-west-1", []string{"appmesh", "iam", "sts"}, func() time.Time { return noon })
	for _, c := range []struct {
		service, region string
		ok              bool
	}{
		{"iam", "us-east-1", true},
		{"sts", "us-east-1", true},
		{"iam", "eu-west-1", true},
		{"sts", "eu-west-1", true},
		{"iam", "eu-west-2", false},
		{"appmesh", "us-east-1", false},
		{"ram", "us-east-1", false},
	} {
		t.Run(c.service+" for "+c.region, func(t *testing.T) {
			t.Parallel()
			r := request(t, "POST", "http://127.0.0.1:7070/", "")
			sign(t, r, lasting, c.region, c.service, hash(""), noon)
			if _, err := v.Verify(t.Context(), arrived(t, r)); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A key that was replaced must not go on through the cache of signing keys.
func TestReplacedSecret(t *testing.T) {
	t.Parallel()
	known := maps.Clone(directory())
	v := auth.NewVerifier(known, "us-east-1", []string{"appmesh"}, func() time.Time { return noon })
	r := good(t)
	for range 2 {
		if _, err := v.Verify(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	c := known[temporaryID]
	c.Secret = "another"
	known[temporaryID] = c
	_, err := v.Verify(t.Context(), r)
	refused(t, err, 403, invalid, mismatch)
	delete(known, temporaryID)
	_, err = v.Verify(t.Context(), r)
	refused(t, err, 403, unrecognized, "The security token included in the request is invalid.")
}

func TestPayloadHeader(t *testing.T) {
	t.Parallel()
	const body = `{"meshName":"apps"}`
	signed := func(t *testing.T, payload string) auth.Request {
		r := request(t, "PUT", "http://127.0.0.1:7070/v20190125/meshes", body, "X-Amz-Content-Sha256", payload)
		sign(t, r, lasting, "us-east-1", "appmesh", payload, noon)
		return arrived(t, r)
	}
	for _, payload := range []string{hash(body), "UNSIGNED-PAYLOAD"} {
		if _, err := verifier(noon).Verify(t.Context(), signed(t, payload)); err != nil {
			t.Errorf("%s: %v", payload, err)
		}
	}
	t.Run("a hash of another body", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), signed(t, hash("")))
		refused(t, err, 403, invalid, mismatch)
	})
	t.Run("chunks", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), signed(t, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"))
		refused(t, err, 400, incomplete, "X-Amz-Content-Sha256 must be the hash of the body or UNSIGNED-PAYLOAD: payloads signed in chunks ('STREAMING-AWS4-HMAC-SHA256-PAYLOAD') are not supported.")
	})
}

// The signed headers of good are what the cases above count on.
func TestGoodSignsItsHeaders(t *testing.T) {
	t.Parallel()
	_, list, _ := strings.Cut(good(t).Header.Get("Authorization"), "SignedHeaders=")
	list, _, _ = strings.Cut(list, ",")
	want := []string{"content-length", "content-type", "host", "x-amz-date", "x-amz-meta", "x-amz-security-token"}
	if got := strings.Split(list, ";"); !slices.Equal(got, want) {
		t.Errorf("SignedHeaders = %v, want %v", got, want)
	}
}
