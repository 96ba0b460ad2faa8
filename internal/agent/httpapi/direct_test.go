package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What changes something is not for who comes through a proxy; what only tells is.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	quits := 0
	f, s, _ := newTestServer(t, time.Hour, func(o *ServerOptions) { o.Quit = func() { quits++ } })
	routes := s.routes()
	for _, header := range []string{"x-forwarded-proto", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms", "x-request-id", "via", "forwarded"} {
		for path, want := range map[string]int{"/quit": 403, "/enableLogging?level=debug": 403, "/drain_listeners": 403, "/status": 200} {
			r := httptest.NewRequest(http.MethodPost, path, nil)
			r.RemoteAddr = "127.0.0.1:1"
			r.Header.Set(header, "x")
			w := httptest.NewRecorder()
			routes.ServeHTTP(w, r)
			if w.Code != want || want == 403 && !strings.Contains(w.Body.String(), "come through a proxy") {
				t.Errorf("%s with %s: got %d %s", path, header, w.Code, w.Body)
			}
		}
	}
	if asked := f.take(); quits != 0 || strings.Contains(asked, "POST") {
		t.Errorf("%d quits; Envoy was asked %q", quits, asked)
	}
}
