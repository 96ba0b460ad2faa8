package compat

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/internal/testenv"
)

// What a running evermeshd says to clients that are made to do something wrong.
// The story has the errors of the operations themselves.
func TestRefusals(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	const mismatch = "InvalidSignatureException 403 The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	altering := between(t, e.url, func(r *http.Request, body []byte) []byte {
		return bytes.ReplaceAll(body, []byte("sent"), []byte("altered"))
	})
	cutting := between(t, e.url, func(r *http.Request, body []byte) []byte {
		r.Header.Set("Authorization", regexp.MustCompile(`,\s*Signature=\w+`).ReplaceAllString(r.Header.Get("Authorization"), ""))
		return body
	})
	// edited is a proxy that changes or loses one signed header.
	edited := func(name string, edit func(string) string) string {
		return between(t, e.url, func(r *http.Request, body []byte) []byte {
			value := edit(r.Header.Get(name))
			r.Header.Del(name)
			if value != "" {
				r.Header.Set(name, value)
			}
			return body
		})
	}
	dateless := edited("X-Amz-Date", func(string) string { return "" })
	redated := edited("X-Amz-Date", func(date string) string { return date[:9] + "000000Z" })
	replayed := edited("X-Amz-Date", func(string) string { return "20200101T000000Z" })
	hashless := edited("X-Amz-Content-Sha256", func(string) string { return strings.Repeat("0", 64) })
	list := func(c *wrongCase) { c.operation, c.in = "ListMeshes", map[string]any{} }
	create := func(c *wrongCase) { c.operation, c.in = "CreateMesh", map[string]any{"meshName": "sent"} }
	for _, c := range []struct {
		name, want string
		edit       func(*endpoint)
		call       func(*wrongCase)
	}{
		{"API-004 unsigned", "MissingAuthenticationTokenException 403 Missing Authentication Token", func(e *endpoint) { e.wrong.Unsigned = true }, list},
		{"API-004 without the signature's sum", "IncompleteSignatureException 400 Authorization header requires 'Signature' parameter. *", func(e *endpoint) { e.url = cutting }, list},
		{"API-004 another secret", mismatch, func(e *endpoint) { e.key.SecretAccessKey += "x" }, list},
		{"API-004 altered on its way", mismatch, func(e *endpoint) { e.url = altering }, create},
		{"API-004 a missing header", "IncompleteSignatureException 400 Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. *", func(e *endpoint) { e.url = dateless }, list},
		{"API-004 another time of the day", "InvalidSignatureException 403 *", func(e *endpoint) { e.url = redated }, list},
		{"API-004 an old date of a replay", "IncompleteSignatureException 400 Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: *", func(e *endpoint) { e.url = replayed }, list},
		{"API-004 the hash of another body", "InvalidSignatureException 403 *", func(e *endpoint) { e.url = hashless }, create},
		{"API-004 an unknown key", "UnrecognizedClientException 403 The security token included in the request is invalid.", func(e *endpoint) { e.key.AccessKeyID = "AKIAIOSFODNN7EXAMPLE" }, list},
		{"API-042 another region", "InvalidSignatureException 403 Credential should be scoped to a valid region, not 'eu-west-1'.", func(e *endpoint) { e.region = "eu-west-1" }, list},
		{"API-004 a clock that is slow", "InvalidSignatureException 403 Signature expired: *", func(e *endpoint) { e.wrong.Clock = -600 }, list},
		{"API-004 a clock that is fast", "InvalidSignatureException 403 Signature not yet current: *", func(e *endpoint) { e.wrong.Clock = 600 }, list},
		{"API-003 another path than /v20190125", "UnknownOperationException 404 No operation is reached by GET /v1/v20190125/meshes. The API's version is 2019-01-25: paths begin with /v20190125/.", func(e *endpoint) { e.url += "/v1" }, list},
		{"API-003 another method", "MethodNotAllowedException 405 The path /v20190125/meshes does not take method POST.", func(e *endpoint) { e.wrong.Method = "POST" }, list},
		{"another content type", `UnsupportedMediaTypeException 415 The content type "text/plain" is not understood: send application/json.`, func(e *endpoint) { e.wrong.ContentType = "text/plain" }, create},
		{"a body over a mebibyte", "RequestEntityTooLargeException 413 The request's body is larger than 1048576 bytes.", func(*endpoint) {}, func(c *wrongCase) {
			c.operation = "CreateVirtualNode"
			c.in = map[string]any{"meshName": "m", "virtualNodeName": "n", "spec": map[string]any{"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": strings.Repeat("a", 1<<20)}}}}
		}},
	} {
		for _, kind := range clients {
			t.Run(c.name+" by "+kind.name, func(t *testing.T) {
				t.Parallel()
				made := wrongCase{endpoint: e}
				c.edit(&made.endpoint)
				c.call(&made)
				_, err := kind.make(t, made.endpoint).call(t.Context(), made.operation, made.in)
				checkFailure(t, err, c.want)
			})
		}
	}
}

// wrongCase is a call that is to be refused.
type wrongCase struct {
	endpoint
	operation string
	in        map[string]any
}

// between is a proxy before a server that changes requests after they were
// signed. They keep the host that they were signed for.
func between(t testing.TB, server string, change func(*http.Request, []byte) []byte) string {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
		body, err := io.ReadAll(r.In.Body)
		if err != nil {
			t.Error(err)
		}
		body = change(r.Out, body)
		r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}})
	t.Cleanup(p.Close)
	return p.URL
}

// A server that takes a request in a hundred seconds has answered one when it is
// known to run.
func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	e := another(t, "--api-rate", "0.01")
	for _, kind := range clients {
		t.Run("API-033 "+kind.name, func(t *testing.T) {
			_, err := kind.make(t, e).call(t.Context(), "ListMeshes", map[string]any{})
			checkFailure(t, err, "TooManyRequestsException 429 Rate exceeded: this access key made more than 0.01 requests per second; try again, with back-off.")
		})
	}
}

// With App Mesh's quotas one more than these is refused as App Mesh did.
func TestLimitExceeded(t *testing.T) {
	t.Parallel()
	e := another(t, "--quotas", "aws")
	for i, kind := range clients {
		t.Run("API-033 QUOTA-008 QUOTA-009 "+kind.name, func(t *testing.T) {
			t.Parallel()
			c := kind.make(t, e)
			mesh := "quota-" + string(rune('a'+i))
			must(t, c, "CreateMesh", map[string]any{"meshName": mesh})
			gateway := func(n int) map[string]any {
				return map[string]any{"meshName": mesh, "virtualGatewayName": fmt.Sprint("g", n), "spec": document(t, `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`)}
			}
			for n := range 3 {
				must(t, c, "CreateVirtualGateway", gateway(n))
			}
			_, err := c.call(t.Context(), "CreateVirtualGateway", gateway(3))
			checkFailure(t, err, "LimitExceededException 400 You've reached the limit on number of VirtualGateways(3) for the mesh "+mesh+".")
			must(t, c, "DeleteVirtualGateway", map[string]any{"meshName": mesh, "virtualGatewayName": "g0"})
			must(t, c, "CreateVirtualGateway", gateway(3))
		})
	}
}

// An access key that somebody broke in the store is a fault that its caller can
// do nothing about; the answer says no more than where to look.
func TestInternalServerError(t *testing.T) {
	t.Parallel()
	etcd, _ := startEtcd(t)
	e := another(t, "--etcd-endpoints", etcd, "--master-key-file", masterKey(t))
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	place := "/evermesh/v1/account/" + e.account + "/key/" + e.key.AccessKeyID
	record, err := store.Get(t.Context(), place)
	if err != nil || len(record.Kvs) != 1 {
		t.Fatalf("no record of the key: %v, %v", record, err)
	}
	broken := regexp.MustCompile(`("data":")[^"]{8}`).ReplaceAll(record.Kvs[0].Value, []byte("${1}AAAAAAAA"))
	if _, err := store.Put(t.Context(), place, string(broken)); err != nil {
		t.Fatal(err)
	}
	g := newGoClient(t, e)
	testenv.Eventually(t, "the key is broken here, too", func() bool {
		_, err := g.call(t.Context(), "ListMeshes", map[string]any{})
		return err != nil
	})
	for _, kind := range clients {
		t.Run("API-033 "+kind.name, func(t *testing.T) {
			t.Parallel()
			_, err := kind.make(t, e).call(t.Context(), "ListMeshes", map[string]any{})
			checkFailure(t, err, "InternalServerErrorException 500 Evermesh could not answer because of a fault of its own. Its log tells more under request id *")
		})
	}
}

// While etcd is away, evermeshd says so, and knows its callers still.
func TestServiceUnavailable(t *testing.T) {
	t.Parallel()
	etcd, stop := startEtcd(t)
	e := another(t, "--etcd-endpoints", etcd, "--master-key-file", masterKey(t))
	must(t, newGoClient(t, e), "CreateMesh", map[string]any{"meshName": "m"})
	stop()
	for _, kind := range clients {
		t.Run("API-033 "+kind.name, func(t *testing.T) {
			t.Parallel()
			_, err := kind.make(t, e).call(t.Context(), "DescribeMesh", map[string]any{"meshName": "m"})
			checkFailure(t, err, "ServiceUnavailableException 503 The store *")
		})
	}
	t.Run("API-004 an altered secret is refused meanwhile", func(t *testing.T) {
		stranger := e
		stranger.key.SecretAccessKey += "x"
		_, err := newGoClient(t, stranger).call(t.Context(), "DescribeMesh", map[string]any{"meshName": "m"})
		checkFailure(t, err, "InvalidSignatureException 403 *")
	})
}

// masterKey is a file with a new one.
func masterKey(t testing.TB) string {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	file := filepath.Join(t.TempDir(), "master-key")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(secret)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// startEtcd runs an etcd as an operator would, outside evermeshd. The test ends
// it; so does the test's end.
func startEtcd(t testing.TB) (endpoint string, stop func()) {
	t.Helper()
	address := testenv.FreeAddress(t)
	sockets, err := os.MkdirTemp("", "peer") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: filepath.Join(sockets, "p")}}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "p")}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: address}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.UnsafeNoFsync = true
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(etcd.Close)
	t.Cleanup(stop)
	<-etcd.Server.ReadyNotify()
	return c.ListenClientUrls[0].String(), stop
}
