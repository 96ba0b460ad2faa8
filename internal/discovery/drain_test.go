package discovery_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// drainOf is the drain of a proxy of the service s.
func drainOf(name string, order int64, addresses ...string) discovery.Drain {
	return discovery.Drain{Name: name, Namespace: "ns", Service: "s", Order: order, Addresses: addresses}
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
		{"one of another service", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), {Name: "x", Namespace: "ns", Service: "t", Order: 2, Addresses: []string{"10.0.0.2"}}}, "10.0.0.2 10.0.0.3 ", nil, false},
		{"all drain: the youngest stays", []discovery.Drain{drainOf("three", 9, "10.0.0.3"), drainOf("one", 1, "10.0.0.1"), drainOf("two", 5, "10.0.0.2")}, "10.0.0.3 ", []string{"three"}, true},
		{"two with one address", []discovery.Drain{drainOf("one", 1, "10.0.0.1"), drainOf("again", 3, "10.0.0.1")}, "10.0.0.2 10.0.0.3 ", nil, true},
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
			discovery.Drain{Account: account, Namespace: "ns", Service: "s", Addresses: []string{"10.0.0.2"}})
		if want := map[string]int{account: 1, "444455556666": 2}[q.Account]; len(got) != want {
			t.Errorf("of account %s: %v", q.Account, got)
		}
	}
}
