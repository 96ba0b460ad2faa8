package discovery_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A control plane that starts while its source is silent goes on with what it
// knew.
func TestLoad(t *testing.T) {
	t.Parallel()
	memory := storetest.New(t)
	book := newPhoneBook()
	before, stop := run(t, book, memory)
	before.Need(client("a"), bundle(t, "full", "empty", "unknown"))
	book.write("full", "10.0.0.1", "10.0.0.2")
	book.write("empty")
	rows := func() int {
		rows, err := memory.Read(t.Context(), "endpoints/")
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	testenv.Eventually(t, "two sets are remembered", func() bool { return rows() == 2 })
	stop()
	for name, source := range map[string]discovery.Source{"a silent source": newPhoneBook(), "no source": nil} {
		t.Run(name, func(t *testing.T) {
			r, _ := run(t, source, memory)
			r.Need(client("a"), bundle(t, "full", "empty", "unknown"))
			for service, want := range map[string]string{"full": "10.0.0.1 10.0.0.2 ", "empty": "", "unknown": "?"} {
				if got := addresses(t, r, service); got != want {
					t.Errorf("%s is %q, want %q", service, got, want)
				}
			}
			if got := r.Take(); len(got) != 0 {
				t.Errorf("what is remembered is a change for %v", got)
			}
		})
	}
	t.Run("a source that says the same, then something else", func(t *testing.T) {
		book := newPhoneBook()
		book.write("full", "10.0.0.1", "10.0.0.2")
		r, _ := run(t, book, memory)
		r.Need(client("a"), bundle(t, "full"))
		testenv.Eventually(t, "the source is asked", func() bool { _, asked := book.count("full"); return asked == 1 })
		book.write("full", "10.0.0.3")
		<-r.Changed()
		if got := addresses(t, r, "full"); got != "10.0.0.3 " {
			t.Errorf("the first change is to %q", got)
		}
	})
}

func TestLoadOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	memory := storetest.New(t)
	if err := memory.Write(t.Context(), false, []store.Op{{Key: "endpoints/x", Value: []byte("{")}}); err != nil {
		t.Fatal(err)
	}
	r := discovery.New(discovery.Config{Memory: memory})
	if err := r.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "endpoints/x") {
		t.Errorf("got %v", err)
	}
}

// Neither a source's failure nor its silence, nor that nobody asked for a while,
// takes back what was known.
func TestKnownNeverBecomesUnknown(t *testing.T) {
	t.Parallel()
	book := newPhoneBook()
	r, _ := run(t, book, storetest.New(t))
	r.Need(client("a"), bundle(t, "blue"))
	if got := addresses(t, r, "blue"); got != "?" {
		t.Fatalf("before the source spoke it is %q", got)
	}
	book.write("blue", "10.0.0.1")
	<-r.Changed()
	r.Take()
	still := func(when string) {
		t.Helper()
		if got := addresses(t, r, "blue"); got != "10.0.0.1 " {
			t.Errorf("%s it is %q", when, got)
		}
		if got := r.Take(); len(got) != 0 {
			t.Errorf("%s there is a change for %v", when, got)
		}
	}
	book.fail(errAway)
	testenv.Eventually(t, "the source is asked again", func() bool { _, asked := book.count("blue"); return asked >= 3 })
	still("while the source fails")
	book.edit(func() { book.fault = nil; delete(book.entries, "blue") })
	testenv.Eventually(t, "a watch runs", func() bool { watched, _ := book.count("blue"); return watched == 1 })
	still("while the source is silent")
	r.Need(client("a"), nil)
	testenv.Eventually(t, "the watch ends", func() bool { watched, _ := book.count("blue"); return watched == 0 })
	still("while nobody needs it")
	r.Need(client("b"), bundle(t, "blue"))
	still("for who needs it later")
	book.write("blue")
	<-r.Changed()
	if got := addresses(t, r, "blue"); got != "" {
		t.Errorf("the source says that there are none, and it is %q", got)
	}
}

// Every client that needs a set, and no other, hears of its change, once.
func TestNeedAndTake(t *testing.T) {
	t.Parallel()
	book := newPhoneBook()
	r, stop := run(t, book, storetest.New(t))
	taken := func() string {
		t.Helper()
		select {
		case <-r.Changed():
		case <-time.After(testenv.Patience):
			t.Fatal("no change")
		}
		var names []string
		for c := range r.Take() {
			names = append(names, c.Key.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: taken are %q, want %q", what, got, want)
		}
	}
	r.Need(client("a"), bundle(t, "blue", "green"))
	r.Need(client("b"), bundle(t, "green"))
	book.write("green", "10.0.0.1")
	want("a set that both need", taken(), "a b")
	if got := r.Take(); len(got) != 0 {
		t.Errorf("taken twice: %v", got)
	}
	book.write("blue", "10.0.0.2")
	want("a set that one needs", taken(), "a")
	if _, asked := book.count("green"); asked != 1 {
		t.Errorf("the source was asked %d times for a set that two need", asked)
	}

	r.Need(client("b"), bundle(t, "blue"))
	book.write("blue", "10.0.0.3")
	want("after a client changed its needs", taken(), "a b")
	book.write("green", "10.0.0.4")
	want("what it does not need any more", taken(), "a")

	r.Need(client("a"), nil)
	testenv.Eventually(t, "nobody watches green", func() bool { watched, _ := book.count("green"); return watched == 0 })
	if watched, asked := book.count("blue"); watched != 1 || asked != 1 {
		t.Errorf("of blue %d watches run and %d began; one that goes on is wanted", watched, asked)
	}
	book.write("blue", "10.0.0.3") // the same again
	book.write("blue", "10.0.0.5")
	want("after the other client went", taken(), "b")

	stop()
	if watched, _ := book.count("blue"); watched != 0 {
		t.Errorf("%d watches run after Run", watched)
	}
}

// shelf is a memory without an etcd, which could not live in the bubble of a
// test with its own time.
type shelf map[string][]byte

func (s shelf) Write(_ context.Context, _ bool, ops []store.Op) error {
	for _, op := range ops {
		s[op.Key] = op.Value
	}
	return nil
}

func (s shelf) Read(context.Context, string) (map[string][]byte, error) { return s, nil }

// failing is a source that fails each time, and notes when it was asked.
type failing struct {
	start time.Time
	asked []time.Duration
	finds func(try int) bool
}

func (f *failing) Watch(_ context.Context, _ envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	f.asked = append(f.asked, time.Since(f.start))
	if f.finds(len(f.asked)) {
		found([]envoy.Endpoint{{Address: "10.0.0.1", Port: 80}})
	}
	return errAway
}

// A source that fails is asked again after 100 ms, and then after twice as long
// each time, up to ten seconds; one that found something begins anew.
func TestBackOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		finds func(int) bool
		want  []time.Duration // between two questions
	}{
		{"that fails only", func(int) bool { return false }, []time.Duration{
			100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond,
			3200 * time.Millisecond, 6400 * time.Millisecond, 10 * time.Second, 10 * time.Second,
		}},
		{"that finds something at its third try", func(try int) bool { return try == 3 }, []time.Duration{
			100 * time.Millisecond, 200 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			needed := bundle(t, "blue")
			synctest.Test(t, func(t *testing.T) {
				source := &failing{start: time.Now(), finds: c.finds}
				r, stop := run(t, source, shelf{})
				r.Need(client("a"), needed)
				var all time.Duration
				for _, d := range c.want {
					all += d
				}
				time.Sleep(all)
				synctest.Wait()
				stop()
				var got []time.Duration
				for i := range len(source.asked) - 1 {
					got = append(got, source.asked[i+1]-source.asked[i])
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("it was asked again after %v, want %v", got, c.want)
				}
			})
		})
	}
}
