package rest_test

import (
	"cmp"
	"context"
	"encoding/json"
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
	"github.com/evermesh/evermesh/internal/service"
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

// encoder keeps records no longer than it takes to write them as JSON.
type encoder struct{}

// Event satisfies service.Auditor.
func (encoder) Event(r service.Record) []byte {
	text, err := json.Marshal(r)
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// Append satisfies service.Auditor.
func (e encoder) Append(_ context.Context, r service.Record) error {
	e.Event(r)
	return nil
}

// What policies and records add to a request: by who asks, a root, or a user with a
// policy of forty statements, and with a record that is encoded or none.
func BenchmarkAuthorizedRequest(b *testing.B) {
	var statements []string
	for i := range 40 {
		statements = append(statements, allow(fmt.Sprintf(`"appmesh:Describe*","appmesh:Update%d"`, i), fmt.Sprintf(`"MESH%d","MESH%d/*"`, i, i)))
	}
	statements = append(statements, allow(`"appmesh:DescribeRoute","appmesh:UpdateRoute"`, `"MESH/*"`))
	for _, recorded := range []bool{false, true} {
		s := judged(b, func(c *rest.Config) {
			c.Now = time.Now
			if recorded {
				c.Audit = encoder{}
			}
		}, map[string]string{"user": strings.Join(statements, ",")})
		must(b, s.Config.Handler, httptest.NewRequest("PUT", meshes, strings.NewReader(`{"meshName": "apps"}`)))
		must(b, s.Config.Handler, httptest.NewRequest("PUT", meshes+"/apps/virtualRouters", strings.NewReader(`{"virtualRouterName": "r", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}}`)))
		must(b, s.Config.Handler, httptest.NewRequest("PUT", meshes+"/apps/virtualNodes", strings.NewReader(`{"virtualNodeName": "n", "spec": {}}`)))
		const spec = `{"spec": {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 90}]}}}}`
		must(b, s.Config.Handler, httptest.NewRequest("PUT", meshes+"/apps/virtualRouter/r/routes", strings.NewReader(`{"routeName": "main", `+spec[1:])))
		for _, user := range []string{"", "user"} {
			for method, body := range map[string]string{"GET": "", "PUT": spec} {
				name := fmt.Sprintf("%s/%s/recorded=%v", map[string]string{"GET": "DescribeRoute", "PUT": "UpdateRoute"}[method], cmp.Or(user, "root"), recorded)
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						r := httptest.NewRequest(method, meshes+"/apps/virtualRouter/r/routes/main", strings.NewReader(body))
						r.Header.Set(headerUser, user)
						must(b, s.Config.Handler, r)
					}
				})
			}
		}
	}
}
