package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/testenv"
)

// hook takes deliveries, or does not.
type hook struct {
	*httptest.Server
	mu    sync.Mutex
	down  bool
	tries int
	posts []string // bodies
	user  string
}

func newHook(t testing.TB) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.tries++
		if h.down {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		user, password, _ := r.BasicAuth()
		h.posts, h.user = append(h.posts, string(body)), user+":"+password
		if got := r.Header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("posted are %s", got)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) set(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

func (h *hook) tried() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tries
}

// names are the events that came.
func (h *hook) names(t testing.TB) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return namesIn(t, strings.Join(h.posts, ""))
}

// namesIn are the names of events in lines of JSON.
func namesIn(t testing.TB, text string) (out []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var e struct {
			Name string `json:"eventName"`
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("not a line of JSON: %q", line)
		}
		out = append(out, e.Name)
	}
	return out
}

// write keeps events with numbers.
func write(t testing.TB, l *segment.Log, from, to int) (names []string) {
	t.Helper()
	k := trail(l)
	for i := from; i < to; i++ {
		name := fmt.Sprintf("Call%03d", i)
		k.NewID = func() string { return name }
		if err := k.Append(context.Background(), call(time.Duration(i)*time.Second, name)); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

func TestAWebhookThatWasDownMissesNothing_AUDIT_003(t *testing.T) {
	dir := t.TempDir()
	l, h, said := opened(t, dir), newHook(t), &testenv.Output{}
	to := strings.Replace(h.URL, "http://", "http://me:planted-password@", 1) + "/?token=planted-token"
	deliver := func() (*audit.Delivery, func()) {
		w := audit.NewWebhook(to)
		d := &audit.Delivery{Log: l, Send: w.Send, To: "webhook", Place: filepath.Join(dir, "webhook.place"), Logger: lines(said)}
		stop := running(t, d.Run)
		return d, func() {
			stop()
			w.Close()
		}
	}
	want := write(t, l, 0, 20)
	_, stop := deliver()
	testenv.Eventually(t, "what was there before comes", func() bool { return slices.Equal(h.names(t), want) })
	h.set(true)
	tried := h.tried()
	want = append(want, write(t, l, 20, 40)...)
	testenv.Eventually(t, "it is tried, and that is said", func() bool { return h.tried() > tried && strings.Contains(said.String(), "status 502") })
	stop()
	h.set(false)
	want = append(want, write(t, l, 40, 60)...)
	d, stop := deliver() // another start
	defer stop()
	testenv.Eventually(t, "all has come, once", func() bool { return slices.Equal(h.names(t), want) })
	testenv.Eventually(t, "nothing is behind", func() bool { s := d.Stats(); return s.Behind == 0 && s.Sent == 40 && s.Missed == 0 })
	if h.user != "me:planted-password" {
		t.Errorf("it was posted as %q", h.user)
	}
	if text := said.String(); strings.Contains(text, "planted") {
		t.Errorf("the log says %s", text)
	}
	stop()
	h.Close()
	write(t, l, 60, 61)
	_, stop = deliver()
	testenv.Eventually(t, "it says that nobody is there", func() bool { return strings.Contains(said.String(), "refused") })
	stop()
	if strings.Contains(said.String(), "planted") {
		t.Errorf("the log says %s", said.String())
	}
}

// A crash between a delivery and the note of it repeats events, and skips none.
func TestADeliveryWhosePlaceIsLostRepeats(t *testing.T) {
	dir := t.TempDir()
	l, h := opened(t, dir), newHook(t)
	place := filepath.Join(dir, "webhook.place")
	want := write(t, l, 0, 10)
	for _, lost := range []string{"", "{", `{"segment":99,"offset":5}`} {
		if err := os.WriteFile(place, []byte(lost), 0o600); err != nil {
			t.Fatal(err)
		}
		w := audit.NewWebhook(h.URL)
		d := &audit.Delivery{Log: l, Send: w.Send, To: "webhook", Place: place, Logger: quiet()}
		before := len(h.names(t))
		stop := running(t, d.Run)
		testenv.Eventually(t, "all comes again", func() bool { return slices.Equal(h.names(t)[before:], want) })
		stop()
		w.Close()
	}
}

func TestAFileIsRotatedByOthers_AUDIT_003(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir)
	name := filepath.Join(dir, "events.json")
	f := &audit.File{Name: name}
	d := &audit.Delivery{Log: l, Send: f.Send, To: "file", Place: filepath.Join(dir, "file.place"), Logger: quiet()}
	stop := running(t, d.Run)
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}
	eventually := func(what, name string, want []string) {
		t.Helper()
		testenv.Eventually(t, what, func() bool {
			text := read(name)
			whole := text == "" || strings.HasSuffix(text, "\n") // else a line is being written
			return whole && slices.Equal(namesIn(t, text), want)
		})
	}
	eventually("lines are there", name, write(t, l, 0, 3))
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	eventually("a new file is there", name, write(t, l, 3, 5))
	f.Reopen() // SIGHUP
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	eventually("another new one", name, write(t, l, 5, 7))
	stop()
	f.Close()
	if got := namesIn(t, read(name+".1")); len(got) != 3 {
		t.Errorf("the first file has %q", got)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, error %v", info, err)
	}
	whole := read(name)
	found, err := l.Scan(context.Background(), segment.Query{Account: account, Limit: 1})
	if err != nil || !strings.HasSuffix(whole, string(bytes.Clone(found.Entries[0].Body))+"\n") {
		t.Errorf("the last line is none as it is kept: %s, error %v", whole, err)
	}
}
