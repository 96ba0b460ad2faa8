//go:build linux

package stage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/test/ground"
)

// Steady is a client that never stops asking: a few workers, one request after the other each, over connections that
// are kept. It repeats nothing, so a request that fails in the mesh is a request that failed.
type Steady struct {
	url     string
	pause   time.Duration
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	answers []Answer
}

// Answer is what came of one request.
type Answer struct {
	Began time.Time
	Took  time.Duration
	App   string // X-App of a 200; else empty
	Fault string // what went wrong; empty for a 200
}

// Tally sums answers up.
type Tally struct {
	Requests, Failed int
	ByApp            map[string]int
	Faults           map[string]int // what went wrong, and how often
	Slowest          time.Duration
}

// NewSteady starts workers on the host that POST to url, each pausing between requests.
func NewSteady(h *ground.Host, url string, workers int, pause time.Duration) *Steady {
	ctx, stop := context.WithCancel(context.Background())
	s := &Steady{url: url, pause: pause, stop: stop}
	for range workers {
		client := h.Client()
		client.Timeout = 30 * time.Second
		s.workers.Go(func() {
			defer client.CloseIdleConnections()
			s.work(ctx, client)
		})
	}
	return s
}

// Stop ends the workers; requests under way are answered first.
func (s *Steady) Stop() {
	s.stop()
	s.workers.Wait()
}

func (s *Steady) work(ctx context.Context, client *http.Client) {
	tick := time.NewTicker(s.pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a := Ask(client, s.url)
		s.mu.Lock()
		s.answers = append(s.answers, a)
		s.mu.Unlock()
	}
}

// Ask sends one POST to url, which net/http never repeats by itself, and tells what came of it.
func Ask(client *http.Client, url string) Answer {
	a := Answer{Began: time.Now()}
	app, err := ask(client, url)
	a.Took = time.Since(a.Began)
	if err != nil {
		a.Fault = err.Error()
	} else {
		a.App = app
	}
	return a
}

func ask(client *http.Client, url string) (string, error) {
	resp, err := client.Post(url, "text/plain", strings.NewReader("x"))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%d %.80s", resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return resp.Header.Get("X-App"), nil
}

// Count sums up the answered requests that began in [from, to); a zero to means until now.
func (s *Steady) Count(from, to time.Time) Tally {
	s.mu.Lock()
	answers := slices.Clone(s.answers)
	s.mu.Unlock()
	t := Tally{ByApp: map[string]int{}, Faults: map[string]int{}}
	for _, a := range answers {
		if a.Began.Before(from) || (!to.IsZero() && !a.Began.Before(to)) {
			continue
		}
		t.Requests++
		t.Slowest = max(t.Slowest, a.Took)
		if a.Fault != "" {
			t.Failed++
			t.Faults[a.Fault]++
			continue
		}
		t.ByApp[a.App]++
	}
	return t
}

// Wait returns when n requests that began at from or later are answered.
func (s *Steady) Wait(ctx context.Context, from time.Time, n int) error {
	return Until(ctx, fmt.Sprintf("%d requests are answered", n), func(context.Context) bool {
		return s.Count(from, time.Time{}).Requests >= n
	})
}
