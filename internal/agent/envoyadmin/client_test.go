package envoyadmin

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

func newClient(t *testing.T, envoy http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(envoy)
	t.Cleanup(server.Close)
	return New(settings.Admin{Port: server.Listener.Addr().(*net.TCPAddr).Port})
}

func TestStats(t *testing.T) {
	var asked string
	answer := `{"stats":[{"name":"a.b","value":3},{"name":"a.c","value":0},{"histograms":{}}]}`
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query().Get("filter")
		_, _ = io.WriteString(w, answer)
	})
	got, err := c.Stats(t.Context(), "a.b", "a.c")
	if diff := cmp.Diff(map[string]int{"a.b": 3, "a.c": 0}, got); diff != "" || err != nil || asked != `^(a\.b|a\.c)$` {
		t.Errorf("%s%v, asked for %q", diff, err, asked)
	}
	answer = "not JSON"
	if _, err := c.Stats(t.Context(), "a"); err == nil {
		t.Error("what is no JSON is taken")
	}
}

func TestAnswers(t *testing.T) {
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/refuses":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, strings.Repeat("no", 500))
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("x", maxAnswer+10))
		case "/hangs":
			<-r.Context().Done()
		}
	})
	t.Run("a refusal is told in short", func(t *testing.T) {
		_, err := c.OK(t.Context(), http.MethodGet, "/refuses", testenv.Patience)
		read := c.Read(t.Context(), "/refuses", testenv.Patience, func(io.Reader) error { return nil })
		for _, err := range []error{err, read} {
			if err == nil || !strings.Contains(err.Error(), "status 403: nono") || len(err.Error()) > maxShown+100 {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("of a large answer a part is kept, and all of it can be read", func(t *testing.T) {
		text, err := c.OK(t.Context(), http.MethodGet, "/large", testenv.Patience)
		if err != nil || len(text) != maxAnswer {
			t.Errorf("got %d bytes, %v", len(text), err)
		}
		n := int64(0)
		err = c.Read(t.Context(), "/large", testenv.Patience, func(body io.Reader) error {
			var err error
			n, err = io.Copy(io.Discard, body)
			return err
		})
		if err != nil || n != maxAnswer+10 {
			t.Errorf("read %d bytes, %v", n, err)
		}
	})
	t.Run("who does not answer in time is unreachable", func(t *testing.T) {
		if _, _, err := c.Call(t.Context(), http.MethodGet, "/hangs", 20*time.Millisecond); err == nil {
			t.Error("no error")
		}
		if got := New(settings.Admin{Socket: "/nowhere"}).State(t.Context()); got != Unreachable {
			t.Errorf("got %s", got)
		}
	})
	t.Run("what the reader says is told", func(t *testing.T) {
		full := errors.New("full")
		if err := c.Read(t.Context(), "/large", testenv.Patience, func(io.Reader) error { return full }); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEpoch(t *testing.T) {
	answer, code := "", http.StatusOK
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	})
	for _, test := range []struct {
		answer, state string
		code, epoch   int
	}{
		{`{"state": "PRE_INITIALIZING", "command_line_options": {"restart_epoch": 7, "base_id": "1"}}`, "PRE_INITIALIZING", http.StatusOK, 7},
		{`{"state": "LIVE"}`, "LIVE", http.StatusOK, 0},
		{"not JSON", Unreachable, http.StatusOK, 0},
		{`{"state": "LIVE"}`, Unreachable, http.StatusServiceUnavailable, 0},
	} {
		answer, code = test.answer, test.code
		if state, epoch := c.Epoch(t.Context()); state != test.state || epoch != test.epoch {
			t.Errorf("%s: got %s, %d", test.answer, state, epoch)
		}
	}
}
