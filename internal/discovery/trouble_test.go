package discovery_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store"
)

// moody fails while it is told to.
type moody struct {
	mu    sync.Mutex
	fault error
}

func (m *moody) set(fault error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

func (m *moody) Watch(ctx context.Context, _ envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	for {
		m.mu.Lock()
		fault := m.fault
		m.mu.Unlock()
		if fault != nil {
			return fault
		}
		found([]envoy.Endpoint{{Address: "10.0.0.1", Port: 80}})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// forgetful is a memory that keeps nothing.
type forgetful struct{}

func (forgetful) Write(context.Context, bool, []store.Op) error { return nil }

func (forgetful) Read(context.Context, string) (map[string][]byte, error) { return nil, nil }

// A source that is away for long is a few lines in the log, however many queries
// there are; and the age of what is known tells of it (D13).
func TestALongAbsenceIsSaidInAFewLines(t *testing.T) {
	t.Parallel()
	var services []string
	for n := range 50 {
		services = append(services, fmt.Sprint("s", n))
	}
	needed := bundle(t, services...)
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer // written under the trouble's lock
		source := &moody{}
		r := discovery.New(discovery.Config{Source: source, Memory: forgetful{}, Log: slog.New(slog.NewTextHandler(&said, nil)), Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		if age := r.Age(); age != 0 {
			t.Errorf("when nothing is needed the age is %v", age)
		}
		r.Need(client("a"), needed)
		time.Sleep(time.Minute)
		if age := r.Age(); age > time.Second {
			t.Errorf("while the source answers every second the age is %v", age)
		}
		source.set(errAway)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if age := r.Age(); age < 10*time.Minute-time.Second || age > 10*time.Minute+time.Second {
			t.Errorf("after ten minutes without the source the age is %v", age)
		}
		source.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if age := r.Age(); age > time.Second {
			t.Errorf("after the source came back the age is %v", age)
		}
		cancel()
		running.Wait()
		log := said.String()
		if n := strings.Count(log, "level=WARN"); n < 10 || n > 20 {
			t.Errorf("the absence is said %d times, want about once a minute and a few times at its start:\n%s", n, log)
		}
		if n := strings.Count(log, "endpoints are looked up again"); n != 1 || !strings.Contains(log, "failing=50") {
			t.Errorf("the end is said %d times:\n%s", n, log)
		}
	})
}

// full is a memory that takes nothing for a while.
type full struct {
	mu     sync.Mutex
	refuse bool
	rows   map[string][]byte
}

func (f *full) Write(_ context.Context, _ bool, ops []store.Op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse {
		return errAway
	}
	for _, op := range ops {
		f.rows[op.Key] = op.Value
	}
	return nil
}

func (f *full) Read(context.Context, string) (map[string][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rows, nil
}

// What could not be saved is saved later, also when it has not changed since.
func TestASetThatWasNotSavedIsSavedLater(t *testing.T) {
	t.Parallel()
	needed := bundle(t, "s")
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		memory := &full{refuse: true, rows: map[string][]byte{}}
		r := discovery.New(discovery.Config{Source: &moody{}, Memory: memory, Log: slog.New(slog.NewTextHandler(&said, nil)), Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		r.Need(client("a"), needed)
		time.Sleep(90 * time.Second)
		memory.mu.Lock()
		memory.refuse = false
		memory.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		cancel()
		running.Wait()
		if rows, _ := memory.Read(ctx, ""); len(rows) != 1 {
			t.Errorf("%d sets are saved, want 1", len(rows))
		}
		if n := strings.Count(said.String(), "endpoints are not saved"); n != 2 {
			t.Errorf("it is said %d times in 90 s:\n%s", n, said.String())
		}
	})
}
