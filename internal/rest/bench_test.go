package rest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
)

// signedServer is a server that verifies signatures, and a maker of requests
// that are signed with the one key that it knows.
func signedServer(b *testing.B) (http.Handler, func(method, path, body string) *http.Request) {
	b.Helper()
	directory := keys{"AKIAA": {Secret: "a", Principal: auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root"}}}
	s := serve(b, func(c *rest.Config) {
		c.Now = time.Now
		c.Verify = auth.NewVerifier(directory, "us-east-1", []string{"appmesh"}, time.Now).Verify
	})
	return s.Config.Handler, func(method, path, body string) *http.Request {
		r := httptest.NewRequestWithContext(context.Background(), method, "http://127.0.0.1:7070"+path, strings.NewReader(body))
		r.RequestURI = path
		if body != "" {
			r.Header.Set("Content-Length", fmt.Sprint(len(body))) // as it arrives
		}
		r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		r.Header.Set("Content-Type", "application/json")
		if err := v4.NewSigner().SignHTTP(b.Context(), aws.Credentials{AccessKeyID: "AKIAA", SecretAccessKey: "a"}, r, "UNSIGNED-PAYLOAD", "appmesh", "us-east-1", time.Now()); err != nil {
			b.Fatal(err)
		}
		return r
	}
}

func must(b *testing.B, h http.Handler, r *http.Request) {
	b.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Fatalf("%s %s: %d %s", r.Method, r.URL, w.Code, w.Body)
	}
}

// A signed request from its bytes to its answer, etcd included; signing is not
// counted. B/op and allocs/op do not depend on what else the machine does.
func BenchmarkSignedRequest(b *testing.B) {
	h, request := signedServer(b)
	must(b, h, request("PUT", meshes, `{"meshName": "apps"}`))
	must(b, h, request("PUT", meshes+"/apps/virtualRouters", `{"virtualRouterName": "r", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}}`))
	for i := range 2 {
		must(b, h, request("PUT", meshes+"/apps/virtualNodes", fmt.Sprintf(`{"virtualNodeName": "n%d", "spec": {}}`, i)))
	}
	const spec = `{"spec": {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "n0", "weight": 90}, {"virtualNode": "n1", "weight": 10}]}, "retryPolicy": {"maxRetries": 2, "perRetryTimeout": {"unit": "ms", "value": 2000}, "httpRetryEvents": ["server-error", "gateway-error"]}}}, "clientToken": "%d"}`
	must(b, h, request("PUT", meshes+"/apps/virtualRouter/r/routes", `{"routeName": "main", `+fmt.Sprintf(spec, -1)[1:]))
	route := meshes + "/apps/virtualRouter/r/routes/main"
	for name, made := range map[string]func(i int) *http.Request{
		"UpdateRoute": func(int) *http.Request {
			return request("PUT", route, strings.Replace(spec, `, "clientToken": "%d"`, "", 1))
		},
		"DescribeRoute": func(int) *http.Request { return request("GET", route, "") },
		"refused":       func(int) *http.Request { return request("PUT", route, `{"spec": {"httpRoute": {"match": {}}}}`) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				r := made(i)
				w := httptest.NewRecorder()
				b.StartTimer()
				h.ServeHTTP(w, r)
				if (w.Code != http.StatusOK) != (name == "refused") {
					b.Fatalf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
}
