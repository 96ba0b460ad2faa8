package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

type keys map[string]auth.Credential

func (k keys) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	c, found := k[id]
	return c, found, nil
}

// endpoint is a real HTTP server behind the real verifier. What it answers is
// said by the test; what came is kept.
type endpoint struct {
	*httptest.Server
	mu   sync.Mutex
	came []string // method, request URI, body
}

func serve(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *endpoint {
	t.Helper()
	verifier := auth.NewVerifier(keys{keyID: {Secret: secret, Principal: auth.Principal{Account: "111122223333"}}}, "us-east-1", []string{"appmesh"}, time.Now)
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if _, err := verifier.Verify(r.Context(), auth.NewRequest(r, body)); err != nil {
			var refusal *api.Error
			if !errors.As(err, &refusal) {
				t.Error(err)
				return
			}
			refuse(w, refusal.Status(), refusal.Code, refusal.Message)
			return
		}
		e.mu.Lock()
		e.came = append(e.came, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
		n := len(e.came)
		e.mu.Unlock()
		answer(w, r, n)
	}))
	t.Cleanup(e.Close)
	return e
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-ErrorType", code)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// caller makes a client that does not wait between attempts, but counts its
// waits.
func caller(t *testing.T, e *endpoint, secretKey string) (*client.Client, *[]time.Duration) {
	t.Helper()
	var waits []time.Duration
	c, err := client.New(client.Config{
		Endpoint: e.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, ""), HTTP: e.Client(),
		Sleep: func(ctx context.Context, d time.Duration) error {
			waits = append(waits, d)
			return ctx.Err()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, &waits
}

func TestCall(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		operation string
		in        any
		want      string // as it came
		answer    string
		out, read any
	}{
		{
			"names travel in the path, escaped",
			"DescribeVirtualNode",
			api.DescribeVirtualNodeInput{MeshName: "a b", VirtualNodeName: "n/1%"},
			"GET /v20190125/meshes/a%20b/virtualNodes/n%2F1%25",
			`{"meshName":"a b","virtualNodeName":"n/1%"}`,
			&api.DescribeVirtualNodeOutput{}, &api.DescribeVirtualNodeOutput{VirtualNode: api.VirtualNodeData{MeshName: "a b", VirtualNodeName: "n/1%"}},
		},
		{
			"the rest travels in the body, with a weight of 0",
			"UpdateRoute",
			map[string]any{
				"meshName": "m", "virtualRouterName": "r", "routeName": "n", "clientToken": "t", "spec": api.RouteSpec{
					TCPRoute: &api.TCPRoute{Action: api.TCPRouteAction{WeightedTargets: []api.WeightedTarget{{VirtualNode: "a", Weight: 0}}}},
				},
			},
			`PUT /v20190125/meshes/m/virtualRouter/r/routes/n {"clientToken":"t","spec":{"tcpRoute":{"action":{"weightedTargets":[{"virtualNode":"a","weight":0}]}}}}`,
			`{"routeName":"n"}`,
			&api.UpdateRouteOutput{}, &api.UpdateRouteOutput{Route: api.RouteData{RouteName: "n"}},
		},
		{
			"options travel in the query, and an answer without payload is the output",
			"ListProxies",
			api.ListProxiesInput{MeshName: "m&n", Limit: aws.Int64(5)},
			"GET /evermesh/v1/proxies?limit=5&meshName=m%26n",
			`{"nextToken":"t","proxies":[],"replicas":[]}`,
			&api.ListProxiesOutput{}, &api.ListProxiesOutput{NextToken: aws.String("t"), Proxies: []api.Proxy{}, Replicas: []api.Replica{}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = io.WriteString(w, tt.answer) })
			c, _ := caller(t, e, secret)
			if err := c.Call(t.Context(), tt.operation, tt.in, tt.out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tt.want}, e.came); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.read, tt.out); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		calls int // how often the request comes
		waits int
		reply func(w http.ResponseWriter, n int)
		code  string // of the *api.Error; empty for success
	}{
		{"a refusal is told at once", 1, 0, func(w http.ResponseWriter, _ int) {
			refuse(w, 404, "NotFoundException:http://internal.amazon.com/", "no such mesh")
		}, api.CodeNotFound},
		{"a throttled call is tried again", 3, 2, func(w http.ResponseWriter, n int) {
			if n < 3 {
				refuse(w, 429, "TooManyRequestsException", "no such mesh")
				return
			}
			_, _ = io.WriteString(w, `{}`)
		}, ""},
		{"an unavailable server is given up on after four attempts", 4, 3, func(w http.ResponseWriter, _ int) {
			refuse(w, 503, "ServiceUnavailableException", "no such mesh")
		}, api.CodeServiceUnavailable},
		{"a fault of the server is not tried again", 1, 0, func(w http.ResponseWriter, _ int) {
			refuse(w, 500, "InternalServerErrorException", "no such mesh")
		}, api.CodeInternalServerError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) { tt.reply(w, n) })
			c, waits := caller(t, e, secret)
			err := c.Call(t.Context(), "DescribeMesh", api.DescribeMeshInput{MeshName: "m"}, nil)
			var refusal *api.Error
			switch errors.As(err, &refusal); {
			case tt.code == "":
				if err != nil {
					t.Errorf("got %v", err)
				}
			case refusal == nil || refusal.Code != tt.code || refusal.Message != "no such mesh":
				t.Errorf("got %v, want %s", err, tt.code)
			}
			if len(e.came) != tt.calls || len(*waits) != tt.waits {
				t.Errorf("came %d times with %d waits, want %d and %d", len(e.came), len(*waits), tt.calls, tt.waits)
			}
		})
	}
}

func TestBackOffGrows(t *testing.T) {
	t.Parallel()
	e := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		refuse(w, 503, "ServiceUnavailableException", "down")
	})
	c, waits := caller(t, e, secret)
	if err := c.Call(t.Context(), "ListMeshes", nil, nil); err == nil {
		t.Fatal("no error")
	}
	for i, mean := range []time.Duration{200, 400, 800} {
		mean *= time.Millisecond
		if got := (*waits)[i]; got < mean/2 || got > mean*3/2 {
			t.Errorf("wait %d is %s, want about %s", i+1, got, mean)
		}
	}
}

// A store that is silent makes each refusal take 5 s: a person is not kept
// waiting for four of them.
func TestSlowRefusalsAreNotTriedAgainForLong(t *testing.T) {
	t.Parallel()
	var late atomic.Int64
	e := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		late.Add(int64(5 * time.Second))
		refuse(w, 503, "ServiceUnavailableException", "The store did not answer within 5s: try again.")
	})
	begin := time.Now()
	c, _ := caller(t, e, secret)
	c.Now = func() time.Time { return begin.Add(time.Duration(late.Load())) }
	err := c.Call(t.Context(), "ListMeshes", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "The store did not answer") {
		t.Errorf("error %v, want what the server says", err)
	}
	if len(e.came) != 2 {
		t.Errorf("%d attempts, want 2", len(e.came))
	}
}

func TestRetriedCreateIsOneRequest(t *testing.T) {
	t.Parallel()
	e := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 1 {
			refuse(w, 503, "ServiceUnavailableException", "down")
			return
		}
		_, _ = io.WriteString(w, `{}`)
	})
	c, _ := caller(t, e, secret)
	if err := c.Call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "m"}, nil); err != nil {
		t.Fatal(err)
	}
	if len(e.came) != 2 || e.came[0] != e.came[1] || !strings.Contains(e.came[0], `"clientToken":"`) {
		t.Errorf("want the same client token twice, came %q", e.came)
	}
}

func TestWrongSecret(t *testing.T) {
	t.Parallel()
	e := serve(t, func(http.ResponseWriter, *http.Request, int) { t.Error("the request was let in") })
	c, _ := caller(t, e, "another")
	err := c.Call(t.Context(), "ListMeshes", nil, nil)
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Code != api.CodeInvalidSignature {
		t.Errorf("got %v, want %s", err, api.CodeInvalidSignature)
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error tells the secret: %v", err)
	}
}

func TestNotTheAPI(t *testing.T) {
	t.Parallel()
	e := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		http.Error(w, "<html>bad gateway</html>", http.StatusBadGateway)
	})
	c, _ := caller(t, e, secret)
	err := c.Call(t.Context(), "ListMeshes", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") {
		t.Errorf("got %v, want one that names the status", err)
	}
	for operation, in := range map[string]any{"NoSuch": nil, "DescribeMesh": nil} {
		if err := c.Call(t.Context(), operation, in, nil); err == nil {
			t.Errorf("%s without input: no error", operation)
		}
	}
	if len(e.came) != 1 {
		t.Errorf("calls that cannot be made came: %q", e.came)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	t.Run("lines come while the server writes them", func(t *testing.T) {
		t.Parallel()
		read := make(chan struct{})
		e := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "{\"resourceVersion\":%d}\n", i)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-read: // the next is written only after this one was read
				case <-r.Context().Done():
					return
				}
			}
		})
		c, _ := caller(t, e, secret)
		var got []int64
		err := c.Stream(t.Context(), "DescribeRollout", map[string]any{"resourceArn": "arn", "watch": true}, func(line json.RawMessage) error {
			var r api.Rollout
			if err := json.Unmarshal(line, &r); err != nil {
				return err
			}
			got = append(got, r.ResourceVersion)
			read <- struct{}{}
			return nil
		})
		if diff := cmp.Diff([]int64{0, 1, 2}, got); err != nil || diff != "" {
			t.Errorf("error %v, lines (-want +got):\n%s", err, diff)
		}
		if want := "GET /evermesh/v1/rollout?resourceArn=arn&watch=true"; e.came[0] != want {
			t.Errorf("came %q, want %q", e.came[0], want)
		}
	})
	t.Run("the caller may stop", func(t *testing.T) {
		t.Parallel()
		e := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
			_, _ = io.WriteString(w, "{}\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		c, _ := caller(t, e, secret)
		enough := errors.New("enough")
		err := c.Stream(t.Context(), "DescribeRollout", map[string]any{"resourceArn": "arn"}, func(json.RawMessage) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a stream that breaks is an error, one that was refused is told", func(t *testing.T) {
		t.Parallel()
		e := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				_, _ = io.WriteString(w, "{}\n")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			refuse(w, 404, "NotFoundException", "gone")
		})
		c, _ := caller(t, e, secret)
		line := func(json.RawMessage) error { return nil }
		if err := c.Stream(t.Context(), "DescribeRollout", map[string]any{"resourceArn": "arn"}, line); err == nil {
			t.Error("no error from a stream that broke")
		}
		var refusal *api.Error
		if err := c.Stream(t.Context(), "DescribeRollout", map[string]any{"resourceArn": "arn"}, line); !errors.As(err, &refusal) {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}
