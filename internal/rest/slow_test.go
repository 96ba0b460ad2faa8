package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// As many large bodies as may be held are begun and never ended: small requests
// are answered, one more large one is told to come again, and when the slow ones
// leave it is taken.
func TestSlowLargeBodiesAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	large := `{"meshName": "large", "spec": {"unknown": "` + strings.Repeat("a", 2*rest.SmallBody) + `"}}`
	var slow []net.Conn
	for range rest.LargeBodies {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		slow = append(slow, c)
		if _, err := fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: h\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", meshes, headerAccount, accountA, rest.MaxBody, large[:len(large)-10]); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("%d other requests with more than %d bytes are being read: try again, with back-off.", rest.LargeBodies, rest.SmallBody)
	held := s.Config.Handler.(*rest.Server).LargeBodiesHeld
	testenv.Eventually(t, "all that may be held is held", func() bool { return held() == rest.LargeBodies })
	s.do(t, "PUT", meshes, large).refused(t, 503, "ServiceUnavailableException", want)
	s.do(t, "GET", meshes+"/apps", "").ok(t)
	s.do(t, "PUT", meshes+"/apps", `{"spec": {}}`).ok(t)
	for _, c := range slow {
		c.Close()
	}
	testenv.Eventually(t, "the slow ones have left", func() bool { return held() == 0 })
	s.do(t, "PUT", meshes, large).ok(t)
}

// The server's time-outs are for a request; a stream goes on beyond them.
func TestWatchOutlivesTimeouts(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateWaiting}}
	s := serve(t, func(c *rest.Config) { c.Ledger = l })
	s.mesh(t)
	short := httptest.NewUnstartedServer(s.Config.Handler)
	short.Config.ReadTimeout, short.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	short.Start()
	t.Cleanup(short.Close)
	r, err := http.NewRequestWithContext(t.Context(), "GET", short.URL+"/evermesh/v1/rollout?watch=true&resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(headerAccount, accountA)
	var stream *bufio.Reader
	testenv.Eventually(t, "a stream begins", func() bool { // a busy machine may cut its request off, too
		resp, err := short.Client().Do(r)
		if err != nil {
			return false
		}
		t.Cleanup(func() { resp.Body.Close() })
		stream = bufio.NewReader(resp.Body)
		line, err := stream.ReadString('\n')
		return err == nil && strings.Contains(line, "WAITING")
	})
	// A body that never comes is cut off when the time is over: it is over then
	// for the stream, too.
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", short.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n", meshes)
	_, _ = io.Copy(io.Discard, c)
	l.set(api.Rollout{State: api.RolloutStateDone}, nil)
	if line, err := stream.ReadString('\n'); err != nil || !strings.Contains(line, "DONE") {
		t.Fatalf("got %q, %v", line, err)
	}
}

// Keys that come and go leave no limiters behind without end; those that are at
// work keep theirs.
func TestRateLimitersAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	key := ""
	s := serve(t, func(c *rest.Config) {
		c.Rate, c.Now = 1, func() time.Time { return now }
		c.Verify = func(context.Context, auth.Request) (auth.Principal, error) {
			return auth.Principal{Account: accountA, AccessKeyID: key}, nil
		}
	})
	handler := s.Config.Handler.(*rest.Server)
	ask := func(k string) int {
		key = k
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "PATCH", "/", nil))
		return w.Code
	}
	for range 2 {
		ask("busy")
	}
	for i := range 20_000 {
		if i%1000 == 0 {
			now = now.Add(time.Second)
			ask("busy")
		}
		if code := ask(fmt.Sprint("key", i)); code == 429 {
			t.Fatalf("key %d is new and was refused", i)
		}
	}
	if got := ask("busy"); got != 429 {
		t.Errorf("the key at work was forgotten: %d", got)
	}
	if n := handler.Limiters(); n > 4096 {
		t.Errorf("%d limiters", n)
	}
}

// A line for each request says who did what to what, and how it ended; what a
// caller proves itself with is in none.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	access := &testenv.Output{}
	directory := keys{
		"AKIAA": {Secret: "a secret value", Principal: auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root"}},
		"ASIAT": {Secret: "a secret value", SessionToken: "a token value", Principal: auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root"}},
	}
	s := serve(t, func(c *rest.Config) {
		c.AccessLog = slog.New(slog.NewJSONHandler(access, nil))
		c.Verify = auth.NewVerifier(directory, "us-east-1", []string{"appmesh"}, time.Now).Verify
	})
	var signatures []string
	send := func(key, method, path, body string, presigned bool) answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		c := aws.Credentials{AccessKeyID: key, SecretAccessKey: "a secret value"}
		if key == "ASIAT" {
			c.SessionToken = "a token value"
		}
		switch {
		case presigned:
			r.URL.RawQuery = "X-Amz-Expires=60"
			uri, _, err := v4.NewSigner().PresignHTTP(t.Context(), c, r, "UNSIGNED-PAYLOAD", "appmesh", "us-east-1", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if r, err = http.NewRequestWithContext(t.Context(), method, uri, nil); err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
			signatures = append(signatures, r.URL.Query().Get("X-Amz-Signature"))
		case key != "":
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
			if err := v4.NewSigner().SignHTTP(t.Context(), c, r, "UNSIGNED-PAYLOAD", "appmesh", "us-east-1", time.Now()); err != nil {
				t.Fatal(err)
			}
			_, sum, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			signatures = append(signatures, sum)
		}
		return s.send(t, r)
	}
	arn := "arn:aws:iam::" + accountA + ":root"
	want := []map[string]any{
		{"method": "PUT", "path": meshes, "operation": "CreateMesh", "status": 200.0, "code": "OK", "principal": arn, "access_key": "AKIAA", "mesh": "shop", "key": accountA + "/shop/mesh/shop"},
		{"method": "GET", "path": meshes + "/none/virtualNodes/n", "operation": "DescribeVirtualNode", "status": 404.0, "code": "NotFoundException", "principal": arn, "access_key": "ASIAT", "mesh": "none", "key": accountA + "/none/virtualNode/n"},
		{"method": "GET", "path": meshes, "operation": "-", "status": 403.0, "code": "MissingAuthenticationTokenException"},
		{"method": "GET", "path": meshes, "operation": "-", "status": 403.0, "code": "UnrecognizedClientException"},
	}
	ids := []string{
		send("AKIAA", "PUT", meshes, `{"meshName": "shop"}`, false).header.Get("X-Amzn-Requestid"),
		send("ASIAT", "GET", meshes+"/none/virtualNodes/n", "", false).header.Get("X-Amzn-Requestid"),
		send("", "GET", meshes, "", false).header.Get("X-Amzn-Requestid"),
		send("AKIAX", "GET", meshes, "", true).header.Get("X-Amzn-Requestid"),
	}
	text := ""
	testenv.Eventually(t, "each request has its line", func() bool {
		text = access.String()
		return strings.Count(text, "\n") == len(want)
	})
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"time", "level", "took", "addr"} {
			if got[name] == nil {
				t.Errorf("%s has no %s", line, name)
			}
			delete(got, name)
		}
		want[i]["msg"], want[i]["request_id"] = "request", ids[i]
		if g, w := fmt.Sprint(got), fmt.Sprint(want[i]); g != w {
			t.Errorf("got  %s\nwant %s", g, w)
		}
	}
	for _, secret := range append(signatures, "a secret value", "a token value") {
		if secret == "" || strings.Contains(text, secret) {
			t.Errorf("%q is in the log, or no request had it:\n%s", secret, text)
		}
	}
}

// The same bytes once more, as somebody who listened may send them: good for
// five minutes, and not a second longer; and not with a newer date.
func TestReplayedRequest(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := serve(t, func(c *rest.Config) {
		directory := keys{"AKIAA": {Secret: "a", Principal: auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root"}}}
		c.Verify = auth.NewVerifier(directory, "us-east-1", []string{"appmesh"}, func() time.Time { return now }).Verify
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+meshes, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: "AKIAA", SecretAccessKey: "a"}, r, "UNSIGNED-PAYLOAD", "appmesh", "us-east-1", now); err != nil {
		t.Fatal(err)
	}
	again := func() answer { return s.send(t, r.Clone(t.Context())) }
	again().ok(t)
	now = now.Add(5 * time.Minute)
	again().ok(t)
	now = now.Add(time.Second)
	again().refused(t, 403, "InvalidSignatureException", "Signature expired: 20260301T120000Z is now earlier than 20260301T120001Z (20260301T120501Z - 5 min.)")
	now = now.AddDate(1, 0, 0)
	again().refused(t, 403, "InvalidSignatureException", "Signature expired: 20260301T120000Z is now earlier than 20270301T120001Z (20270301T120501Z - 5 min.)")
	r.Header.Set("X-Amz-Date", "20270301T120501Z")
	again().refused(t, 400, "IncompleteSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20260301' != '20270301', from '20270301T120501Z'.")
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "20260301", "20270301", 1))
	if a := again(); a.status != 403 || a.header.Get("X-Amzn-Errortype") != "InvalidSignatureException" || !strings.Contains(string(a.body), "does not match the signature you provided") {
		t.Errorf("got %d %s", a.status, a.body)
	}
}
