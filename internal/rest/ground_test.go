package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The ground that the tests of this package stand on: a server over HTTP before
// a real etcd. A caller says who it is in a header of its own; signatures are
// for TestSignatures and for package auth.

const (
	accountA = "111111111111"
	accountB = "222222222222"

	headerAccount = "X-Test-Account"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

// server is a rest.Server, with what it was made of.
type server struct {
	*httptest.Server
	store *store.Store
	clock *clock
	log   *testenv.Output
}

// clock is a clock that moves one second with every look at it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

// serve makes a server; edit may change its configuration.
func serve(t testing.TB, edit func(*rest.Config)) *server {
	t.Helper()
	return serveStore(t, storetest.New(t), edit)
}

// serveStore makes a server before a store that others may serve too.
func serveStore(t testing.TB, data *store.Store, edit func(*rest.Config)) *server {
	t.Helper()
	s := &server{store: data, clock: &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 50_072_000, time.UTC)}, log: &testenv.Output{}}
	c := rest.Config{
		Store: s.store, Snapshot: storetest.Snapshot(s.store), Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Log: slog.New(slog.NewTextHandler(s.log, nil)),
		Now: s.clock.Now, NewID: uuid.NewString,
		Verify: func(_ context.Context, r auth.Request) (auth.Principal, error) {
			account := r.Header.Get(headerAccount)
			return auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", AccessKeyID: "AKIA" + account}, nil
		},
	}
	if edit != nil {
		edit(&c)
	}
	handler, err := rest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request of account A.
func (s *server) do(t testing.TB, method, path, body string) answer {
	t.Helper()
	return s.as(t, accountA, method, path, body)
}

// as sends a request of an account. The path goes over the wire as it is given.
func (s *server) as(t testing.TB, account, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = strings.TrimPrefix(s.URL, "http:") + path // not cleaned, not encoded again
	r.Header.Set(headerAccount, account)
	return s.send(t, r)
}

func (s *server) send(t testing.TB, r *http.Request) answer {
	t.Helper()
	transport := s.Client().Transport
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: text}
}

// ok checks that the answer is a 200 and returns its document.
func (a answer) ok(t testing.TB) map[string]any {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("got %d %s %s", a.status, a.header.Get("X-Amzn-ErrorType"), a.body)
	}
	return decode(t, a.body)
}

// refused checks that the answer is the error.
func (a answer) refused(t testing.TB, status int, code, message string) {
	t.Helper()
	var body struct{ Message string }
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("got %d %s: %v", a.status, a.body, err)
	}
	if got := a.header.Get("X-Amzn-ErrorType"); a.status != status || got != code || body.Message != message {
		t.Errorf("got  %d %s: %s\nwant %d %s: %s", a.status, got, body.Message, status, code, message)
	}
}

func decode(t testing.TB, text []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var doc map[string]any
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return doc
}

// at walks into a document: at(doc, "metadata", "version").
func at(doc any, path ...string) any {
	for _, member := range path {
		m, _ := doc.(map[string]any)
		doc = m[member]
	}
	return doc
}

// Paths of the API.
const meshes = "/v20190125/meshes"

// mesh creates the mesh apps of account A.
func (s *server) mesh(t testing.TB) {
	t.Helper()
	s.do(t, "PUT", meshes, `{"meshName": "apps"}`).ok(t)
}
