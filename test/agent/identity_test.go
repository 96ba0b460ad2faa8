//go:build linux

package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/testenv"
)

// unbroken wants every request answered while do is done; it returns how many there were.
func (p *proxy) unbroken(t *testing.T, do func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var asked, failed atomic.Int64
	wg.Go(func() {
		for ctx.Err() == nil {
			if p.ask(t.Context()) == "" {
				failed.Add(1)
			}
			asked.Add(1)
			agenttest.Tick(t)
		}
	})
	defer func() {
		if !t.Failed() {
			many := asked.Load()
			testenv.Eventually(t, "requests are answered", func() bool { return asked.Load() > many })
		}
		stop()
		wg.Wait()
		if failed.Load() > 0 {
			t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
		}
	}()
	do()
}

// A clock that jumps by a day, forth and back and forth again, costs the next stream one refusal and no request. The
// clock that jumps is the control plane's: the machine's is everybody's, and for a signature only the difference counts.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	p := newProxy(t, envoys[0], agenttest.Key()...)
	p.control.Stop()
	p.serveAt(t, p.control.Addr, agenttest.VerifyingBy(agenttest.Keys{}, now))
	r := p.start(t)
	pid := r.serves(t, 1, "first")
	for _, step := range []struct {
		name string
		jump time.Duration
		word string
		says string // after the difference
	}{
		{"AGENT-044 a day behind", 24 * time.Hour, "second", " behind the control plane's"},
		{"AGENT-044 right again", 0, "third", "the control plane's"},
		{"AGENT-044 a day ahead", -24 * time.Hour, "fourth", " ahead of the control plane's"},
	} {
		t.Run(step.name, func(t *testing.T) {
			p.unbroken(t, func() {
				before := p.opened()
				ahead.Store(int64(step.jump))
				p.endStreams()
				testenv.Eventually(t, "another stream", func() bool { return p.opened() > before })
				p.say(step.word)
				if r.serves(t, 1, step.word) != pid {
					t.Error("another Envoy")
				}
			})
			// What the refusal took to come is in the difference.
			said := regexp.MustCompile("this machine's clock is ([0-9hms]*)" + step.says).FindStringSubmatch(r.out.String())
			if said == nil {
				t.Fatalf("the log does not say by how much it is %s", step.says)
			}
			if by, err := time.ParseDuration(cmp.Or(said[1], "0s")); err != nil || (by-step.jump.Abs()).Abs() > time.Minute {
				t.Errorf("by %s%s", said[1], step.says)
			}
		})
	}
	// What the log does not take is a signature that never comes right.
	if n := strings.Count(r.out.String(), "code=Unauthenticated"); n != 3 {
		t.Errorf("%d refusals, want one for each jump", n)
	}
	testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) && strings.Contains(kept(t, p.at("state")), "fourth") })
	r.hurries(t)

	t.Run("a last good configuration that seems to be of tomorrow, or of long ago", func(t *testing.T) {
		p.control.Stop()
		files, err := filepath.Glob(p.at("state/*.lastgood"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q, %v", files, err)
		}
		for _, off := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
			must(t, os.Chtimes(files[0], time.Now().Add(off), time.Now().Add(off)))
			r := p.start(t)
			r.serves(t, 1, "fourth")
			r.waits(t, "the last good configuration is served")
			if want := map[bool]string{true: "age=0s", false: "age=24h"}[off > 0]; !r.says(want) {
				t.Errorf("the log does not say %s", want)
			}
			r.hurries(t)
		}
	})
}

// sessions are keys that end; whoever gives them out may fall silent.
type sessions struct {
	lasts atomic.Int64

	mu     sync.Mutex
	of     map[string]auth.Credential
	given  int
	silent bool
}

func (s *sessions) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, found := s.of[id]
	return c, found, nil
}

// ServeHTTP is the endpoint of container credentials.
func (s *sessions) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		http.NotFound(w, nil)
		return
	}
	s.given++
	id, ends := fmt.Sprintf("ASIA%016d", s.given), time.Now().Add(time.Duration(s.lasts.Load())).Truncate(time.Second)
	s.of[id] = auth.Credential{Secret: "secret" + auth.Secret(id), SessionToken: "token" + auth.Secret(id), Expires: ends, Principal: auth.Principal{Account: "111122223333"}}
	fmt.Fprintf(w, `{"RoleArn":"arn:aws:iam::111122223333:role/orders","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
		id, "secret"+id, "token"+id, ends.UTC().Format(time.RFC3339))
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given
}

func (s *sessions) silence(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

// Credentials that end while a stream is open: it goes on, the next one has others, and while none are to be had
// requests are served all the same.
func TestCredentialsEnd(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	s := &sessions{of: map[string]auth.Credential{}}
	s.lasts.Store(int64(3 * time.Second))
	source := httptest.NewServer(s)
	t.Cleanup(source.Close)
	p := newProxy(t, envoys[len(envoys)-1], "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_MAX_ATTEMPTS=1", "AWS_CONTAINER_CREDENTIALS_FULL_URI="+source.URL+"/secret-path")
	p.control.Stop()
	p.serveAt(t, p.control.Addr, agenttest.VerifyingBy(s, time.Now))
	r := p.start(t)
	pid := r.serves(t, 1, "first")
	ended := func(n int) { // the n-th session is over
		t.Helper()
		testenv.Eventually(t, "the session's end", func() bool {
			c, found, _ := s.Credential(t.Context(), fmt.Sprintf("ASIA%016d", n), "")
			return found && time.Now().After(c.Expires)
		})
	}
	t.Run("the stream that is open goes on", func(t *testing.T) {
		ended(s.count())
		p.say("second")
		r.serves(t, 1, "second")
		if n := p.opened(); n != 1 {
			t.Errorf("%d streams, want the one that was open", n)
		}
	})
	t.Run("AGENT-044 the next one is signed with others", func(t *testing.T) {
		p.unbroken(t, func() {
			before := s.count()
			p.endStreams()
			testenv.Eventually(t, "another stream", func() bool { return p.opened() == 2 })
			if s.count() == before {
				t.Error("nobody was asked for other credentials")
			}
			p.say("third")
			r.serves(t, 1, "third")
		})
		testenv.Eventually(t, "it is kept", func() bool { return lastGood(p.at("state")) && strings.Contains(kept(t, p.at("state")), "third") })
	})
	t.Run("none are to be had: requests are served, the log and the status say which step fails", func(t *testing.T) {
		s.silence(true)
		ended(s.count())
		p.unbroken(t, func() {
			p.endStreams()
			r.waits(t, "step=credentials")
			if streams := p.opened(); streams != 2 {
				t.Errorf("%d streams, though there was nothing to sign with", streams)
			}
			// And Envoy dies as well: the last good configuration is for that.
		})
		signal(t, pid, syscall.SIGKILL)
		r.serves(t, 2, "third")
	})
	t.Run("they are there again", func(t *testing.T) {
		s.silence(false)
		p.say("fourth")
		r.serves(t, 2, "fourth")
	})
	if r.says("secret-path") || r.says("secretASIA") || r.says("tokenASIA") {
		t.Error("the log tells secrets")
	}
	r.hurries(t)
	p.wantNothingLeft(t)
}
