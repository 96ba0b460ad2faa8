package cloudmap_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap"
	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.VerifyTestMain(m,
		// The SDK's connections are kept until they have idled.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const poll = 20 * time.Millisecond

// source makes a source that asks the URL, and keeps what it logs.
func source(t testing.TB, url string) (*cloudmap.Source, *testenv.Output) {
	t.Helper()
	log := &testenv.Output{}
	return cloudmap.New(cloudmap.Config{
		AWS:      aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("key", "secret", "")},
		Endpoint: url, Poll: poll, Log: slog.New(slog.NewTextHandler(log, nil)),
	}), log
}

// standIn starts a small Cloud Map.
func standIn(t testing.TB) (*cloudmaptest.Registry, string) {
	t.Helper()
	r := cloudmaptest.New()
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL
}

// watching is a running watch: what it found, and how it ended.
type watching struct {
	t     testing.TB
	sets  chan []envoy.Endpoint
	ended chan error
}

func watch(t testing.TB, s *cloudmap.Source, q envoy.EndpointQuery) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watching{t: t, sets: make(chan []envoy.Endpoint), ended: make(chan error, 1)}
	go func() {
		w.ended <- s.Watch(ctx, q, func(set []envoy.Endpoint) {
			select {
			case w.sets <- set:
			case <-ctx.Done():
			}
		})
		close(w.ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range w.ended { //nolint:revive // it waits for the end
		}
	})
	return w
}

// next is what the next look finds.
func (w *watching) next() []envoy.Endpoint {
	w.t.Helper()
	select {
	case set := <-w.sets:
		return set
	case err := <-w.ended:
		w.t.Fatalf("the watch has ended: %v", err)
	case <-time.After(testenv.Patience):
		w.t.Fatal("nothing found")
	}
	return nil
}

// until looks until the set is the wanted one.
func (w *watching) until(want ...envoy.Endpoint) {
	w.t.Helper()
	diff := "nothing"
	for range 200 {
		set := w.next()
		if diff = cmp.Diff(append([]envoy.Endpoint{}, want...), set); diff == "" {
			return
		}
	}
	w.t.Fatalf("the set (-want +got):\n%s", diff)
}

// failure is how the watch ends.
func (w *watching) failure() error {
	w.t.Helper()
	for {
		select {
		case <-w.sets:
		case err := <-w.ended:
			return err
		case <-time.After(testenv.Patience):
			w.t.Fatal("the watch goes on")
		}
	}
}

func query(service string) envoy.EndpointQuery {
	return envoy.EndpointQuery{Source: "cloudmap", Namespace: "apps", Service: service, Port: 8080}
}

func at(address string, port uint32) envoy.Endpoint {
	return envoy.Endpoint{Address: address, Port: port}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	registry, url := standIn(t)
	s, _ := source(t, url)
	t.Run("DISC-005 DISC-010 instances come and go", func(t *testing.T) {
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.2", "80"), cloudmaptest.At("10.0.0.1", "80"))
		w := watch(t, s, query("red"))
		w.until(at("10.0.0.1", 80), at("10.0.0.2", 80))
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.3", "80"))
		w.until(at("10.0.0.3", 80))
		registry.Set("apps", "red")
		w.until()
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.3", "80"))
		w.until(at("10.0.0.3", 80))
	})
	t.Run("DISC-005 only instances with all of the attributes", func(t *testing.T) {
		registry.Set("apps", "blue", cloudmaptest.At("10.0.0.1", "80", "stage", "prod", "odd", "a=b"),
			cloudmaptest.At("10.0.0.2", "80", "stage", "prod"), cloudmaptest.At("10.0.0.3", "80", "odd", "a=b"))
		q := query("blue")
		q.Attributes = "odd=a=b\nstage=prod"
		watch(t, s, q).until(at("10.0.0.1", 80))
	})
	t.Run("DISC-005 keys that hold what ends a key", func(t *testing.T) {
		registry.Set("apps", "odd", cloudmaptest.At("10.0.0.1", "80", "a=b%3D", "c"), cloudmaptest.At("10.0.0.2", "80", "a", "b%3D=c"))
		q := query("odd")
		q.Attributes = "a%3Db%253D=c"
		watch(t, s, q).until(at("10.0.0.1", 80))
	})
	t.Run("DISC-013 health moves no revision, and is seen", func(t *testing.T) {
		one, two := cloudmaptest.At("10.0.0.1", "80"), cloudmaptest.At("10.0.0.2", "80")
		one.Health, two.Health = "HEALTHY", "HEALTHY"
		registry.Set("apps", "checked", one, two)
		w := watch(t, s, query("checked"))
		w.until(at("10.0.0.1", 80), at("10.0.0.2", 80))
		registry.Health("apps", "checked", one.ID, "UNHEALTHY")
		w.until(at("10.0.0.2", 80))
		registry.Health("apps", "checked", two.ID, "UNHEALTHY")
		w.until()
		registry.Health("apps", "checked", one.ID, "HEALTHY")
		w.until(at("10.0.0.1", 80))
	})
}

// A service that stays as it is costs a number at each look.
func TestRevisions(t *testing.T) {
	t.Parallel()
	t.Run("DISC-007 an unchanged service is listed once", func(t *testing.T) {
		t.Parallel()
		registry, url := standIn(t)
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "80"))
		s, _ := source(t, url)
		w := watch(t, s, query("red"))
		for range 6 {
			w.until(at("10.0.0.1", 80))
		}
		if lists, revisions := registry.Asked(cloudmaptest.DiscoverInstances), registry.Asked(cloudmaptest.DiscoverInstancesRevision); lists != 1 || revisions < 5 {
			t.Errorf("%d lists and %d revisions, want one list and a revision for each further look", lists, revisions)
		}
	})
	for name, refusal := range map[string]http.HandlerFunc{
		"an endpoint that does not know them":     cloudmaptest.Refusal(http.StatusBadRequest, "UnknownOperationException"),
		"an endpoint without the route":           http.NotFound,
		"a policy older than the operation":       cloudmaptest.Refusal(http.StatusBadRequest, "AccessDeniedException"),
		"an endpoint that has not implemented it": cloudmaptest.Refusal(http.StatusNotImplemented, "InternalFailure"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := cloudmaptest.New()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.Header.Get("X-Amz-Target"), cloudmaptest.DiscoverInstancesRevision) {
					refusal(w, r)
					return
				}
				registry.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "80"))
			s, log := source(t, server.URL)
			w := watch(t, s, query("red"))
			for range 4 {
				w.until(at("10.0.0.1", 80))
			}
			registry.Set("apps", "red", cloudmaptest.At("10.0.0.2", "80"))
			w.until(at("10.0.0.2", 80))
			if n := strings.Count(log.String(), "does not tell revisions"); n != 1 {
				t.Errorf("it is said %d times:\n%s", n, log)
			}
		})
	}
}

// D6.4: whatever a registry does but answer, nothing is found.
func TestFaultsFindNothing(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]http.HandlerFunc{
		"errors":               cloudmaptest.Refusal(http.StatusInternalServerError, "InternalFailure"),
		"throttling":           cloudmaptest.Refusal(http.StatusBadRequest, "RequestLimitExceeded"),
		"no such service":      cloudmaptest.Refusal(http.StatusBadRequest, "ServiceNotFound"),
		"something else":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"half an answer":       func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Instances": [`)) },
		"an empty body":        func(http.ResponseWriter, *http.Request) {},
		"an empty object":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) },
		"a dropped connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry, url := standIn(t)
			registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "80"))
			s, _ := source(t, url)
			w := watch(t, s, query("red"))
			w.until(at("10.0.0.1", 80))
			registry.Fail(fault)
			for {
				select {
				case set := <-w.sets: // a look that was answered before
					if len(set) == 0 {
						t.Fatal("an empty set was found")
					}
					continue
				case err := <-w.ended:
					if err == nil || errors.Is(err, context.Canceled) {
						t.Errorf("the watch ended with %v", err)
					}
					return
				case <-time.After(testenv.Patience):
					t.Fatal("the watch goes on")
				}
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		registry, url := standIn(t)
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "80"))
		registry.Fail(cloudmaptest.Silence)
		s, _ := source(t, url)
		began := time.Now()
		err := watch(t, s, query("red")).failure()
		if err == nil || !strings.Contains(err.Error(), "no answer within 5s") {
			t.Errorf("the watch ended with %v", err)
		}
		if took := time.Since(began); took > testenv.Patience {
			t.Errorf("it waited %v", took)
		}
	})
	t.Run("slowness", func(t *testing.T) {
		t.Parallel()
		registry, url := standIn(t)
		registry.Set("apps", "red", cloudmaptest.At("10.0.0.1", "80"))
		registry.Fail(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(300 * time.Millisecond):
			case <-r.Context().Done():
			}
			registry.Fail(nil)
			registry.ServeHTTP(w, r)
		})
		s, _ := source(t, url)
		watch(t, s, query("red")).until(at("10.0.0.1", 80))
	})
}

// However many queries there are, few requests run at once.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	registry, url := standIn(t)
	release := make(chan struct{})
	registry.Fail(func(w http.ResponseWriter, r *http.Request) {
		<-release
		cloudmaptest.Refusal(http.StatusInternalServerError, "InternalFailure")(w, r)
	})
	s, _ := source(t, url)
	var all []*watching
	for n := range 60 {
		all = append(all, watch(t, s, query(fmt.Sprint("s", n))))
	}
	for registry.Most() < 10 {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("fewer than 10 requests at once")
		}
	}
	close(release)
	for _, w := range all {
		if err := w.failure(); err == nil {
			t.Error("a watch ended without an error")
		}
	}
	if most := registry.Most(); most != 10 {
		t.Errorf("%d requests at once, want 10", most)
	}
}
