package ads

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What proxies may do to each other: nothing. Each of these tests has one that
// behaves and gets every change, one after the other, whatever another does
// meanwhile.

// changes is how many changes there are.
const changes = 20

// changed is the simple goal with another route.
func changed(n int, size int) spec {
	s := simple()
	r := routeOf("r", virtualHost("x", fmt.Sprint("change ", n), "a"))
	r.Encoded = protowire.AppendBytes(protowire.AppendTag(r.Encoded, 1000, protowire.BytesType), make([]byte, size)) // of no known field
	s[envoy.Route] = []*envoy.Resource{r}
	return s
}

// follow makes the changes and sees that the one that behaves gets each.
func (r *rig) follow(t *testing.T, name string, good *adstest.Stream, size int) {
	t.Helper()
	for n := range changes {
		r.give(name, changed(n, size))
		adstest.Must(t, good.Send(good.Answer(good.Expect(t, "rds r"), "", "r")))
	}
	testenv.Eventually(t, "the one that behaves is current", func() bool { return r.States()[string(api.ProxyStateCurrent)] >= 1 })
}

func TestAProxyThatNeverAcknowledgesDelaysNobody(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		good, silent := r.open(t, "a", delta), r.open(t, "a", delta)
		feed(t, good)
		feed(t, silent)
		r.follow(t, "a", good, 0)
		silent.Expect(t, "rds r") // the first change, unanswered: there is no second
		r.mu.Lock()
		r.goals[client("a")] = nil
		r.mu.Unlock()
		r.Set(client("a"), 2, nil)
		got := 0
		for {
			if _, err := silent.Recv(); err != nil {
				break
			}
			got++
		}
		if got != 0 {
			t.Errorf("%d more responses came to one that did not answer the first", got)
		}
	})
}

// A proxy that does not even read fills its stream's window. More of them than
// there are goroutines for new goals hold up nobody.
func TestProxiesThatDoNotReadDelayNobody(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		const large = 200 << 10 // more than a stream's window
		r := newRig(t, nil)
		r.give("a", changed(-1, large))
		var deaf []*adstest.Stream
		for range 4 * runtime.GOMAXPROCS(0) {
			s := r.open(t, "a", delta)
			for _, of := range []string{adstest.CDS, adstest.LDS, adstest.RDS} {
				adstest.Must(t, s.Send(adstest.Request{Type: of, Names: named(of), Subscribe: named(of)}))
			}
			deaf = append(deaf, s)
		}
		testenv.Eventually(t, "all have joined", func() bool { row, _ := r.Row(client("a")); return len(row.Members) == len(deaf) })
		good := r.open(t, "a", delta)
		feed(t, good)
		r.follow(t, "a", good, large)
		most := 0
		r.Server.mu.Lock()
		for p := range r.groups[client("a")].members {
			p.mu.Lock()
			most = max(most, p.m.unanswered())
			p.mu.Unlock()
		}
		r.Server.mu.Unlock()
		if limit := 2 * large; most > limit {
			t.Errorf("%d bytes wait for one proxy, want at most one response of a type, %d", most, limit)
		}
	})
}

// named is what is asked for by name.
func named(of string) []string {
	if of == adstest.RDS {
		return []string{"r"}
	}
	return nil
}

func TestAProxyThatRefusesEverythingGetsEachChangeOnce(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		good, bad := r.open(t, "a", delta), r.open(t, "a", delta)
		feed(t, good)
		feed(t, bad)
		for n := range changes {
			r.give("a", changed(n, 0))
			// Refused at once: a second response to the same change would come
			// before the next change, and be taken for it.
			f := bad.Expect(t, "rds r")
			adstest.Must(t, bad.Send(bad.Answer(f, fmt.Sprint("no to ", n), "r")))
			adstest.Must(t, good.Send(good.Answer(good.Expect(t, "rds r"), "", "r")))
			testenv.Eventually(t, "the ledger says so", func() bool {
				s := r.States()
				return s["REFUSED"] == 1 && s["CURRENT"] == 1
			})
		}
		r.Set(client("a"), 2, nil)
		if _, err := bad.Recv(); err == nil {
			t.Error("what was refused came again without a change")
		}
	})
}

// One that refuses from its first response on has nothing, and is not asked again
// and again.
func TestAProxyThatRefusesFromTheStartIsLeftAlone(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		s := r.open(t, "a", delta)
		for _, of := range []string{adstest.CDS, adstest.LDS} {
			adstest.Must(t, s.Send(adstest.Request{Type: of}))
		}
		sent := 0
		refuse := func() {
			f, err := s.Recv()
			adstest.Must(t, err)
			sent++
			adstest.Must(t, s.Send(s.Answer(f, "no")))
		}
		refuse()
		testenv.Eventually(t, "the ledger says so", func() bool { return r.state("a") == api.ProxyStateRefused })
		r.Set(client("a"), 2, nil)
		for {
			if _, err := s.Recv(); err != nil {
				break
			}
			sent++
		}
		if sent > 2 { // of each type that it asked for
			t.Errorf("%d responses were sent to one that refuses everything", sent)
		}
	})
}

func TestAProxyThatReconnectsInALoopLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		const loops = 200
		asked := 0
		r := newRig(t, nil)
		r.resolve = func(id, _ string) (mesh.Client, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			asked++
			return client(strings.TrimPrefix(id, nodeID(""))), nil
		}
		r.give("b", simple())
		good := r.open(t, "b", delta)
		feed(t, good)
		testenv.Eventually(t, "the one that behaves has joined", func() bool { return r.state("b") != "" })
		before := runtime.NumGoroutine()

		conn := adstest.Dial(t, r.address)
		var looping sync.WaitGroup
		looping.Go(func() {
			for i := range loops {
				s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Instance: "loop", Delta: delta})
				if err := s.Send(adstest.Request{Type: adstest.CDS}); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if _, err := s.Recv(); err != nil {
						t.Error(err)
					}
				}
				s.Close()
			}
		})
		r.follow(t, "b", good, 0)
		looping.Wait()
		adstest.Must(t, conn.Close())

		testenv.Eventually(t, "every stream has left", func() bool {
			r.Server.mu.Lock()
			defer r.Server.mu.Unlock()
			return r.streams == 1 && len(r.groups) == 1 && len(r.strange) == 0
		})
		testenv.Eventually(t, "their goroutines have ended", func() bool { return runtime.NumGoroutine() <= before })
		r.mu.Lock()
		defer r.mu.Unlock()
		if asked > loops+1 {
			t.Errorf("the store was asked %d times for %d connections", asked, loops+1)
		}
		if n := r.wanted[client("a")]; n != 0 {
			t.Errorf("the client is wanted %d times", n)
		}
		r.Server.mu.Lock()
		defer r.Server.mu.Unlock()
		if len(r.doubts) > 1 {
			t.Errorf("%d things are remembered of one proxy", len(r.doubts))
		}
	})
}

func TestAProxyThatAsksForAnUnknownNodeLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		good := r.open(t, "a", delta)
		feed(t, good)
		conn := adstest.Dial(t, r.address)
		var looping sync.WaitGroup
		looping.Go(func() {
			for range 50 {
				s := adstest.Open(t, conn, adstest.Options{Node: nodeID("nobody"), Delta: delta})
				_ = s.Send(adstest.Request{Type: adstest.CDS}) // the stream may have ended already
				if code, text := s.End(t); code != codes.InvalidArgument || !strings.Contains(text, "does not exist") {
					t.Errorf("ended with %v, %q", code, text)
				}
			}
		})
		r.follow(t, "a", good, 0)
		looping.Wait()
		testenv.Eventually(t, "one client, one stream and no stranger are kept", func() bool {
			r.Server.mu.Lock()
			defer r.Server.mu.Unlock()
			return len(r.groups) == 1 && r.streams == 1 && len(r.strange) == 0
		})
	})
}

func TestAMillionNames(t *testing.T) {
	const million = 1_000_000
	long := strings.Repeat("n", maxName-8)
	for name, c := range map[string]struct {
		names func(i int) string
		of    int // in each request
		want  string
	}{
		"in one request":                      {func(i int) string { return fmt.Sprint(i) }, million, "larger than max"},
		"the same, in one request":            {func(int) string { return "x" }, million, "names 1000000 resources"},
		"in many requests":                    {func(i int) string { return fmt.Sprint(i) }, maxNames / 2, "at most 10000"},
		"long ones, in one request":           {func(i int) string { return fmt.Sprint(long, i) }, 2000, "bytes: at most"},
		"long ones, a few in each of several": {func(i int) string { return fmt.Sprint(long, i) }, 400, "bytes: at most"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, delta bool) {
				r := newRig(t, nil)
				good := r.open(t, "a", delta)
				feed(t, good)
				bad := r.open(t, "a", delta)
				// Else a first request of megabytes may be waited for in vain.
				adstest.Must(t, bad.Send(adstest.Request{Type: adstest.CDS}))
				bad.Expect(t, "cds a b")
				before := heapInUse()
				var all []string
				for sent := 0; sent < million && sent < 20*c.of; {
					var names []string
					for range c.of {
						names = append(names, c.names(sent))
						sent++
					}
					// State of the world says all names in each request.
					all = append(all, names...)
					if err := bad.Send(adstest.Request{Type: adstest.EDS, Names: all, Subscribe: names}); err != nil {
						break // refused
					}
				}
				if code, text := bad.End(t); code != codes.ResourceExhausted || !strings.Contains(text, c.want) && !strings.Contains(text, "larger than max") {
					t.Errorf("ended with %v, %q, want %q", code, text, c.want)
				}
				r.follow(t, "a", good, 0)
				testenv.Eventually(t, "nothing of it is left", func() bool {
					row, _ := r.Row(client("a"))
					return len(row.Members) == 1
				})
				// The names alone are 16 MB or more.
				testenv.Eventually(t, "its memory is free again", func() bool { return heapInUse() < before+8<<20 })
			})
		})
	}
}

// heapInUse is what is reachable, in bytes.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// As many names as are allowed cost their own stream time, and bounded memory.
func TestManyNamesStayWithTheirProxy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		good, greedy := r.open(t, "a", delta), r.open(t, "a", delta)
		feed(t, good)
		feed(t, greedy)
		names := []string{"r"}
		for i := range maxNames - 1 {
			names = append(names, fmt.Sprintf("there-is-no-such-route-%05d", i))
		}
		before := heapInUse()
		adstest.Must(t, greedy.Send(adstest.Request{Type: adstest.RDS, Names: names, Subscribe: names[1:]}))
		r.follow(t, "a", good, 0)
		testenv.Eventually(t, "all names are known", func() bool {
			for _, p := range r.members("a") {
				p.mu.Lock()
				n := len(p.m.of[envoy.Route].names)
				p.mu.Unlock()
				if n == maxNames {
					return true
				}
			}
			return false
		})
		// 400 bytes a name, in both ends of the stream. What is pooled goes with a later
		// collection.
		grown := int64(0)
		testenv.Eventually(t, fmt.Sprintf("%d names take %d bytes at most", maxNames, 400*maxNames), func() bool {
			grown = int64(heapInUse()) - int64(before)
			return grown <= 400*maxNames
		})
		t.Logf("%d bytes are kept for %d names", grown, maxNames)
		runtime.KeepAlive(names)
	})
}

// members are the client's proxies.
func (r *rig) members(name string) (out []*proxy) {
	r.Server.mu.Lock()
	defer r.Server.mu.Unlock()
	for p := range r.groups[client(name)].members {
		out = append(out, p)
	}
	return out
}
