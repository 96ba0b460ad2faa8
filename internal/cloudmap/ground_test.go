package cloudmap_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const (
	account = resttest.AccountA
	other   = resttest.AccountB
)

var realm = api.Realm{Partition: "aws", Region: resttest.Region}

// service makes the service over a store.
func serviceOn(t testing.TB, s *store.Store) *service.Service {
	t.Helper()
	made, err := cloudmap.New(cloudmap.Config{Store: s, Realm: realm, Now: time.Now}).Service()
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// desk calls operations in this process, as an account's root.
type desk struct {
	t       testing.TB
	service *service.Service
	account string
}

// try does an operation.
func (d desk) try(operation string, in map[string]any) (any, error) {
	d.t.Helper()
	c := &service.Call{
		Service: d.service, Operation: operation, At: time.Now(), Input: in, Authorizer: auth.Roots{},
		Principal: auth.Principal{Account: d.account, ARN: "arn:aws:iam::" + d.account + ":root", Type: auth.Root, ID: d.account},
	}
	return d.service.Operations[operation].Run(d.t.Context(), c)
}

// do does an operation that must succeed.
func (d desk) do(operation string, in map[string]any) any {
	d.t.Helper()
	out, err := d.try(operation, in)
	if err != nil {
		d.t.Fatalf("%s: %v", operation, err)
	}
	return out
}

// refused is the code of an operation's refusal, empty for none.
func (d desk) refused(operation string, in map[string]any) string {
	d.t.Helper()
	_, err := d.try(operation, in)
	if err == nil {
		return ""
	}
	known, ok := errors.AsType[*api.Error](err)
	if !ok {
		d.t.Fatalf("%s: %v", operation, err)
	}
	return known.Code
}

// watching runs a registry until the test ends.
func watching(t testing.TB, s *store.Store) *cloudmap.Registry {
	t.Helper()
	r := cloudmap.NewRegistry(s, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return r
}

// ear hears what a registry pushes for one query.
type ear struct {
	mu   sync.Mutex
	sets [][]envoy.Endpoint
}

func listen(t testing.TB, r *cloudmap.Registry, q envoy.EndpointQuery) *ear {
	t.Helper()
	e := &ear{}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = r.Watch(ctx, q, func(set []envoy.Endpoint) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.sets = append(e.sets, slices.Clone(set))
		})
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return e
}

// last is the set that was told last, "?" when none was.
func (e *ear) last() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.sets) == 0 {
		return "?"
	}
	var out []string
	for _, one := range e.sets[len(e.sets)-1] {
		out = append(out, fmt.Sprint(one.Address, ":", one.Port))
	}
	return strings.Join(out, " ")
}

func (e *ear) told() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.sets)
}

// hears waits for a set.
func (e *ear) hears(t testing.TB, want string) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("the set %q is told", want), func() bool { return e.last() == want })
}
