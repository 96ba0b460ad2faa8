package auth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/auth"
)

// AWS's SDK for Go is the oracle: whatever it signs is accepted, and refused
// after any one change of a byte.
func TestSDKSignatures(t *testing.T) {
	t.Parallel()
	t.Run("API-004 what the SDK for Go signs is accepted and nothing near it", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(rt *rapid.T) {
			r, payload := drawRequest(t, rt)
			who := rapid.SampledFrom([]aws.Credentials{lasting, temporary}).Draw(rt, "credentials")
			skew := time.Duration(rapid.IntRange(-300, 300).Draw(rt, "skew")) * time.Second
			if rapid.Bool().Draw(rt, "presigned") {
				presign(t, r, who, payload, noon.Add(skew))
			} else {
				sign(t, r, who, "us-east-1", "appmesh", payload, noon.Add(skew))
			}
			in := arrived(t, r)
			p, err := verifier(noon).Verify(t.Context(), in)
			if err != nil {
				rt.Fatalf("%s %s: %v", in.Method, in.RequestURI, err)
			}
			if p.AccessKeyID != who.AccessKeyID || p.Account != root.Account || p.ARN != root.ARN {
				rt.Fatalf("got %+v", p)
			}
			if p, err := verifier(noon).Verify(t.Context(), damage(rt, in)); err == nil {
				rt.Fatalf("%s %s: accepted as %+v after a change", in.Method, in.RequestURI, p)
			}
		})
	})
}

// drawRequest makes a request of any shape that the wire carries.
func drawRequest(t *testing.T, rt *rapid.T) (r *http.Request, payload string) {
	text := rapid.StringOfN(rapid.OneOf(rapid.RuneFrom([]rune("azAZ09-._~ /%+&=?#:@!$'()*,;[]{}|\"<>^`\\é世")), rapid.Rune()), 0, 12, -1)
	path := "/v20190125"
	for _, segment := range rapid.SliceOfN(text, 0, 4).Draw(rt, "segments") {
		path += "/" + url.PathEscape(segment)
	}
	query := url.Values{}
	for _, name := range rapid.SliceOfN(text, 0, 4).Draw(rt, "names") {
		query[name] = append(query[name], rapid.SliceOfN(text, 1, 2).Draw(rt, "values")...)
	}
	body := rapid.String().Draw(rt, "body")
	r = request(t, rapid.SampledFrom([]string{"GET", "PUT", "POST", "DELETE"}).Draw(rt, "method"), "http://127.0.0.1:7070"+path, body)
	r.URL.RawQuery = query.Encode()
	r.Host = rapid.SampledFrom([]string{"127.0.0.1:7070", "appmesh.us-east-1.example", "[::1]:7070", "data-127.0.0.1:7070"}).Draw(rt, "host")
	value := rapid.StringMatching(`[!-~]( {0,3}[!-~]){0,10}`)
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"Content-Type", "User-Agent", "X-Amzn-Trace-Id", "X-Amz-Meta", "X-Other", "Amz-Sdk-Request"}), 0, 4, rapid.ID).Draw(rt, "headers") {
		for _, v := range rapid.SliceOfN(value, 1, 2).Draw(rt, "header values") {
			r.Header.Add(name, v)
		}
	}
	payload = hash(body)
	switch rapid.SampledFrom([]string{"", "hash", "UNSIGNED-PAYLOAD"}).Draw(rt, "payload") {
	case "hash":
		r.Header.Set("X-Amz-Content-Sha256", payload)
	case "UNSIGNED-PAYLOAD":
		payload = "UNSIGNED-PAYLOAD"
		r.Header.Set("X-Amz-Content-Sha256", payload)
	}
	return r, payload
}

// presign signs r in its query. The signer moves some headers there.
func presign(t testing.TB, r *http.Request, c aws.Credentials, payload string, at time.Time) {
	t.Helper()
	query := r.URL.Query()
	query.Set("X-Amz-Expires", "600")
	r.URL.RawQuery = query.Encode()
	signed, headers, err := v4.NewSigner().PresignHTTP(t.Context(), c, r, payload, "appmesh", "us-east-1", at)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(signed); err != nil {
		t.Fatal(err)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-") {
			r.Header.Del(name)
		}
	}
	for name, values := range headers {
		if name != "Host" && name != "Content-Length" {
			r.Header[name] = values
		}
	}
}

// damage changes one byte of what is signed, or the signature.
func damage(rt *rapid.T, r auth.Request) auth.Request {
	flip := func(s string, what string) string {
		b := []byte(s)
		b[rapid.IntRange(0, len(b)-1).Draw(rt, what)] ^= 2
		return string(b)
	}
	r.Header = r.Header.Clone()
	parts := []string{"method", "uri", "host"}
	if len(r.Body) > 0 && r.Header.Get("X-Amz-Content-Sha256") != "UNSIGNED-PAYLOAD" {
		parts = append(parts, "body")
	}
	if r.Header.Get("Authorization") != "" {
		parts = append(parts, "authorization", "date")
	}
	switch rapid.SampledFrom(parts).Draw(rt, "part") {
	case "method":
		r.Method = flip(r.Method, "at")
	case "uri":
		r.RequestURI += "x"
	case "host":
		r.Host = flip(r.Host, "at")
	case "body":
		r.Body = []byte(flip(string(r.Body), "at"))
	case "authorization":
		r.Header.Set("Authorization", flip(r.Header.Get("Authorization"), "at"))
	case "date":
		r.Header.Set("X-Amz-Date", flip(r.Header.Get("X-Amz-Date"), "at"))
	}
	return r
}

func TestPresigned(t *testing.T) {
	t.Parallel()
	signed := func(t *testing.T, edit func(string) string) auth.Request {
		r := request(t, "GET", "http://127.0.0.1:7070/v20190125/meshes?limit=5", "")
		presign(t, r, temporary, hash(""), noon)
		in := arrived(t, r)
		in.RequestURI = edit(in.RequestURI)
		return in
	}
	same := func(s string) string { return s }
	t.Run("holds for X-Amz-Expires", func(t *testing.T) {
		t.Parallel()
		if _, err := verifier(noon.Add(10*time.Minute)).Verify(t.Context(), signed(t, same)); err != nil {
			t.Error(err)
		}
	})
	t.Run("and no longer", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon.Add(10*time.Minute+time.Second)).Verify(t.Context(), signed(t, same))
		refused(t, err, 403, invalid, "Signature expired: 20260301T120000Z is now earlier than 20260301T120001Z (20260301T121001Z - 10 min.)")
	})
	t.Run("its time cannot be stretched", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), signed(t, func(s string) string { return strings.Replace(s, "Expires=600", "Expires=601", 1) }))
		refused(t, err, 403, invalid, mismatch)
	})
	t.Run("a week at most", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), signed(t, func(s string) string { return strings.Replace(s, "Expires=600", "Expires=604801", 1) }))
		refused(t, err, 400, incomplete, "X-Amz-Expires must be a number of seconds from 1 to 604800, not '604801'.")
	})
	t.Run("a parameter twice", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), signed(t, func(s string) string { return s + "&X-Amz-Expires=5" }))
		refused(t, err, 400, incomplete, "Query-string parameter 'X-Amz-Expires' must not be there more than once.")
	})
}

// Envoy's stream is one signed request; its headers come as gRPC metadata.
func TestStream(t *testing.T) {
	t.Parallel()
	const method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	stream := func(t *testing.T, payload string) map[string][]string {
		r := request(t, "POST", "http://control.example:7071"+method, "")
		if payload == "UNSIGNED-PAYLOAD" {
			r.Header.Set("X-Amz-Content-Sha256", payload)
		}
		sign(t, r, lasting, "us-east-1", "appmesh", payload, noon)
		md := map[string][]string{":authority": {"control.example:7071"}, "content-type": {"application/grpc"}, "user-agent": {"grpc-go"}}
		for name, values := range r.Header {
			md[strings.ToLower(name)] = values
		}
		return md
	}
	t.Run("AGENT-044 accepted with an unsigned payload and with that of nothing", func(t *testing.T) {
		t.Parallel()
		for _, payload := range []string{"UNSIGNED-PAYLOAD", hash("")} {
			p, err := verifier(noon).Verify(t.Context(), auth.StreamRequest(method, stream(t, payload)))
			if err != nil || p.Account != root.Account {
				t.Errorf("payload %s: got %+v, %v", payload, p, err)
			}
		}
	})
	t.Run("EMS-012 no credentials", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), auth.StreamRequest(method, map[string][]string{":authority": {"control.example:7071"}}))
		refused(t, err, 403, missing, "Missing Authentication Token")
	})
	t.Run("signed for another method", func(t *testing.T) {
		t.Parallel()
		_, err := verifier(noon).Verify(t.Context(), auth.StreamRequest(strings.Replace(method, "Delta", "Stream", 1), stream(t, hash(""))))
		refused(t, err, 403, invalid, mismatch)
	})
}
