package relay

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/auth"
)

// A request goes where streams go, past endpoints that do not answer or are cut off, signed as the API wants it.
func TestRequest(t *testing.T) {
	agenttest.Signed(t)
	verifier := auth.NewVerifier(agenttest.Keys{}, "us-east-1", []string{"appmesh"}, time.Now)
	var asked, cutOff atomic.Int32
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, err := verifier.Verify(r.Context(), auth.Request{Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusForbidden)
		case r.ProtoMajor != 1:
			http.Error(w, r.Proto, http.StatusBadRequest)
		default:
			_, _ = io.WriteString(w, r.Method+" "+r.RequestURI)
		}
	}))
	t.Cleanup(good.Close)
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cutOff.Add(1)
		http.Error(w, "cut off from the store", http.StatusServiceUnavailable)
	}))
	t.Cleanup(bad.Close)
	const dead = "http://127.0.0.1:1"
	relay, _ := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+dead+","+bad.URL+","+good.URL)
	for cutOff.Load() == 0 { // until it was its turn
		got, err := relay.Do(agenttest.Within(t), http.MethodPut, "/evermesh/v1/proxies/0a1b/drain?why=sigterm")
		if err != nil || string(got) != "PUT /evermesh/v1/proxies/0a1b/drain?why=sigterm" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	// A clock that is off by a day costs one more request, and no error.
	relay.upstreams.signer.clock.now = func() time.Time { return time.Now().Add(24 * time.Hour) }
	if got, err := relay.Do(agenttest.Within(t), http.MethodPut, "/x"); err != nil || string(got) != "PUT /x" {
		t.Errorf("with a clock that is off: %q, %v", got, err)
	}
	good.Close()
	_, err := relay.Do(agenttest.Within(t), http.MethodPut, "/x")
	for _, want := range []string{dead, bad.URL, "answered 503 Service Unavailable: cut off from the store", "connection refused"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := relay.Do(ctx, http.MethodPut, "/x"); err == nil {
		t.Error("asked after the context's end")
	}
	if _, err := relay.Do(t.Context(), http.MethodPut, "no path"); err == nil {
		t.Error("asked for no path")
	}
}

// What a replica refuses, all would refuse: the others are not asked, and the answer's words are in the error.
func TestRequestIsRefused(t *testing.T) {
	agenttest.Unsigned(t)
	var asked atomic.Int32
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Error(w, "Missing\nAuthentication Token "+r.Header.Get("Authorization")+strings.Repeat("x", 2*maxReason), http.StatusForbidden)
	})
	a, b := httptest.NewServer(refuse), httptest.NewServer(refuse)
	t.Cleanup(a.Close)
	t.Cleanup(b.Close)
	relay, _ := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+a.URL+","+b.URL)
	_, err := relay.Do(agenttest.Within(t), http.MethodPut, "/x")
	if err == nil || !strings.Contains(err.Error(), "answered 403 Forbidden: Missing Authentication Token x") || asked.Load() != 1 || len(err.Error()) > 2*maxReason {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
}

func TestRequestBoundsTheAnswer(t *testing.T) {
	agenttest.Unsigned(t)
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(endless.Close)
	relay, _ := newTestRelay(t, "APPMESH_XDS_ENDPOINT="+endless.URL)
	if got, err := relay.Do(agenttest.Within(t), http.MethodGet, "/"); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestRequestToASocketWithAToken(t *testing.T) {
	agenttest.Unsigned(t)
	path := filepath.Join(agenttest.ShortDir(t), "control.sock")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization")+" "+r.Header.Get("X-Evermesh-Account"))
	}))
	server.Listener.Close()
	server.Listener = listen(t, "unix", path)
	server.Start()
	t.Cleanup(server.Close)
	token := write(t, "token", "a.b.c\n")
	relay, _ := newTestRelay(t, "APPMESH_XDS_ENDPOINT=xds+unix://"+path, "EVERMESH_TOKEN_FILE="+token,
		"APPMESH_RESOURCE_ARN=arn:aws:appmesh:us-east-1:111122223333:mesh/m/virtualNode/n")
	if got, err := relay.Do(agenttest.Within(t), http.MethodPut, "/x"); err != nil || string(got) != "Bearer a.b.c 111122223333" {
		t.Errorf("got %q, %v", got, err)
	}
}
