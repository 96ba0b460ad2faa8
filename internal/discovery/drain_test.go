package discovery_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// drainOf is the drain of a proxy of the service s.
func drainOf(name string, order int64, addresses ...string) discovery.Drain {
	d := discovery.Drain{Name: name, Namespace: "ns", Service: "s", Order: order}
	for _, a := range addresses {
		d.Endpoints = append(d.Endpoints, envoy.Endpoint{Address: a, Port: 8080})
	}
	return d
}

// What drains is not in the sets, what drained once does not come back as others drain,
// and the last one stays.
func TestDrain(t *testing.T) {
	book := newPhoneBook()
	book.write("s", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	book.write("other", "10.0.0.1")
	r, _ := run(t, book, storetest.New(t))
	r.Need(client("a"), bundle(t, "s", "other"))
	testenv.Eventually(t, "the sets are known", func() bool { return addresses(t, r, "s") != "?" && addresses(t, r, "other") != "?" })
	r.Take()
	for _, step := range []struct {
		name    string
		drains  []discovery.Drain
		want    string
		kept    []string
		touched bool
	}{
		{"one drains", []discovery.Drain{drainOf("one", 1, "10.0.0.1", "172.17.0.1")}, "10.0.0.2 10.0.0.3 ", nil, true},
		{"nothing new", []discovery.Drain{drainOf("one", 1, "10.0.0.1", "172.17.0.1")}, "10.0.0.2 10.0.0.3 ", nil, false},
		{"one of another service", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), {Name: "x", Namespace: "ns", Service: "t", Order: 2, Endpoints: drainOf("", 0, "10.0.0.2").Endpoints}}, "10.0.0.2 10.0.0.3 ", nil, false},
		{"all drain: the youngest stays", []discovery.Drain{drainOf("three", 9, "10.0.0.3"), drainOf("one", 1, "10.0.0.1"), drainOf("two", 5, "10.0.0.2")}, "10.0.0.3 ", []string{"three"}, true},
		{"one of another port", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), {Name: "x", Namespace: "ns", Service: "s", Order: 2, Endpoints: []envoy.Endpoint{{Address: "10.0.0.2", Port: 8081}}}}, "10.0.0.2 10.0.0.3 ", nil, true},
		{"one of another account", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), {Name: "x", Account: "444455556666", Namespace: "ns", Service: "s", Order: 2, Endpoints: drainOf("", 0, "10.0.0.2").Endpoints}}, "10.0.0.2 10.0.0.3 ", nil, false},
		{"two with one address", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), drainOf("again", 3, "10.0.0.1")}, "10.0.0.2 10.0.0.3 ", nil, false},
		{"none drains", nil, "10.0.0.1 10.0.0.2 10.0.0.3 ", nil, true},
	} {
		r.Drain(int64(len(step.drains)), step.drains)
		touched := r.Take()[client("a")]
		if got := addresses(t, r, "s"); got != step.want || addresses(t, r, "other") != "10.0.0.1 " {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
		if want := []envoy.EndpointQuery{query(t, "s")}; slices.Equal(touched, want) != step.touched {
			t.Errorf("%s: %v is touched", step.name, touched)
		}
		revision, kept := r.Drained()
		if diff := cmp.Diff(step.kept, kept); diff != "" || revision != int64(len(step.drains)) {
			t.Errorf("%s: revision %d, %s", step.name, revision, diff)
		}
	}

	// A set that is found while proxies drain is without them at once, and one that is
	// found to have others lets the last one go.
	r.Drain(7, []discovery.Drain{drainOf("one", 1, "10.0.0.1"), drainOf("two", 2, "10.0.0.2"), drainOf("three", 3, "10.0.0.3")})
	book.write("s", "10.0.0.1", "10.0.0.4")
	testenv.Eventually(t, "the new set", func() bool { return addresses(t, r, "s") == "10.0.0.4 " })
	r.Take()
	if _, kept := r.Drained(); kept != nil {
		t.Errorf("%v are kept", kept)
	}
	book.write("s")
	testenv.Eventually(t, "an empty set", func() bool { return addresses(t, r, "s") == "" })
}

// Drains are of accounts where the source knows whose services they are.
func TestDrainsOfAccounts(t *testing.T) {
	t.Parallel()
	mine, theirs := query(t, "s"), query(t, "s")
	mine.Account, theirs.Account = account, "444455556666"
	for _, q := range []envoy.EndpointQuery{mine, theirs} {
		got := discovery.Shown(q, []envoy.Endpoint{{Address: "10.0.0.1", Port: 80}, {Address: "10.0.0.2", Port: 81}},
			discovery.Drain{Account: account, Namespace: "ns", Service: "s", Endpoints: []envoy.Endpoint{{Address: "10.0.0.2", Port: 81}}})
		if want := map[string]int{account: 1, "444455556666": 2}[q.Account]; len(got) != want {
			t.Errorf("of account %s: %v", q.Account, got)
		}
	}
}

// Who drains a proxy is told what a query finds, whether or not a client needs it.
func TestAsk(t *testing.T) {
	book := newPhoneBook()
	book.write("s", "10.0.0.1")
	book.write("needed", "10.0.0.2")
	r, _ := run(t, book, storetest.New(t))
	within := testenv.Patience
	ask := func(services ...string) map[envoy.EndpointQuery][]envoy.Endpoint {
		var queries []envoy.EndpointQuery
		for _, s := range services {
			queries = append(queries, query(t, s))
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return r.Ask(ctx, queries)
	}
	at := func(address string) []envoy.Endpoint { return []envoy.Endpoint{{Address: address, Port: 8080}} }
	r.Need(client("a"), bundle(t, "needed"))
	want := map[envoy.EndpointQuery][]envoy.Endpoint{query(t, "s"): at("10.0.0.1"), query(t, "needed"): at("10.0.0.2")}
	if diff := cmp.Diff(want, ask("s", "needed")); diff != "" {
		t.Errorf("asked for two: %s", diff)
	}
	// What nobody needs is followed no longer than it is asked for, and asked anew.
	testenv.Eventually(t, "the watch ends", func() bool { watched, _ := book.count("s"); return watched == 0 })
	book.write("s", "10.0.0.9")
	if diff := cmp.Diff(at("10.0.0.9"), ask("s")[query(t, "s")]); diff != "" {
		t.Errorf("asked again: %s", diff)
	}
	if set, ok := r.Current(query(t, "s")); ok {
		t.Errorf("%v is taken for current", set)
	}
	if set, ok := r.Current(query(t, "needed")); !ok || !slices.Equal(set, at("10.0.0.2")) {
		t.Errorf("of what is needed: %v, %v", set, ok)
	}
	testenv.Eventually(t, "the watch ends", func() bool { watched, _ := book.count("s"); return watched == 0 })
	book.fail(errors.New("away"))
	within = time.Second // of an answer that does not come
	if diff := cmp.Diff(at("10.0.0.9"), ask("s")[query(t, "s")]); diff != "" {
		t.Errorf("while the source is away: %s", diff)
	}
	if got := ask("never"); len(got) != 0 {
		t.Errorf("of what was never known: %v", got)
	}
}

// once is a source that tells what there is when it is asked, and no more, as the control
// plane's own one does while nothing changes.
type once struct{ book *phoneBook }

func (o once) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	o.book.mu.Lock()
	set := o.book.entries[q.Service]
	o.book.asked[q.Service]++
	o.book.mu.Unlock()
	found(set)
	<-ctx.Done()
	return ctx.Err()
}

// Who asks while a watch runs that has told all, since another asks, or has just asked, is
// answered by what is known: the watch says no more.
func TestAskAgainAtOnce(t *testing.T) {
	book := newPhoneBook()
	book.write("s", "10.0.0.1")
	r, _ := run(t, once{book}, storetest.New(t))
	began := time.Now()
	for range 200 {
		got := r.Ask(t.Context(), []envoy.EndpointQuery{query(t, "s")})[query(t, "s")]
		if want := []envoy.Endpoint{{Address: "10.0.0.1", Port: 8080}}; !slices.Equal(got, want) {
			t.Fatalf("got %v", got)
		}
	}
	_, asked := book.count("s")
	t.Logf("the source was asked %d times in %v", asked, time.Since(began))
}

// A set that was known before somebody needed it again is not what the source says now.
func TestNeededIsNotYetCurrent(t *testing.T) {
	memory := storetest.New(t)
	book := newPhoneBook()
	book.write("s", "10.0.0.1")
	before, stop := run(t, book, memory)
	before.Need(client("a"), bundle(t, "s"))
	testenv.Eventually(t, "it is remembered", func() bool {
		rows, err := memory.Read(t.Context(), "endpoints/")
		return err == nil && len(rows) == 1
	})
	stop()
	book = newPhoneBook() // which says nothing yet
	r, _ := run(t, book, memory)
	r.Need(client("a"), bundle(t, "s"))
	if got := addresses(t, r, "s"); got != "10.0.0.1 " {
		t.Errorf("known is %s", got)
	}
	if set, ok := r.Current(query(t, "s")); ok {
		t.Errorf("%v is taken for current", set)
	}
	asked := make(chan []envoy.Endpoint, 1)
	go func() { asked <- r.Ask(t.Context(), []envoy.EndpointQuery{query(t, "s")})[query(t, "s")] }()
	testenv.Eventually(t, "the source is asked", func() bool { watched, _ := book.count("s"); return watched == 1 })
	book.write("s", "10.0.0.9")
	if got, want := <-asked, []envoy.Endpoint{{Address: "10.0.0.9", Port: 8080}}; !slices.Equal(got, want) {
		t.Errorf("asked, it says %v", got)
	}
}

// overtaken is a source whose first watch ends late: it tells what there was before only
// when another one has told what there is now.
type overtaken struct {
	watches              atomic.Int32
	stopped, tells, over chan struct{}
}

func (o *overtaken) Watch(ctx context.Context, _ envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	if o.watches.Add(1) > 1 {
		found([]envoy.Endpoint{{Address: "10.0.0.2", Port: 8080}})
		<-ctx.Done()
		return ctx.Err()
	}
	<-ctx.Done()
	close(o.stopped)
	<-o.tells
	found([]envoy.Endpoint{{Address: "10.0.0.1", Port: 8080}})
	close(o.over)
	return ctx.Err()
}

// What a watch tells that was stopped is older than what the one after it told.
func TestAWatchThatWasStoppedTellsNothing(t *testing.T) {
	source := &overtaken{stopped: make(chan struct{}), tells: make(chan struct{}), over: make(chan struct{})}
	r, _ := run(t, source, storetest.New(t))
	r.Need(client("a"), bundle(t, "s"))
	testenv.Eventually(t, "the source is asked", func() bool { return source.watches.Load() == 1 })
	r.Need(client("a"), nil)
	<-source.stopped
	r.Need(client("a"), bundle(t, "s"))
	testenv.Eventually(t, "the next watch tells", func() bool { return addresses(t, r, "s") == "10.0.0.2 " })
	close(source.tells)
	<-source.over
	if got := addresses(t, r, "s"); got != "10.0.0.2 " {
		t.Errorf("the set is %s", got)
	}
}
