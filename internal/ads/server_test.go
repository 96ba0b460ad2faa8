package ads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

// rig is a server with clients that are known by the name in their node id.
type rig struct {
	*Server
	address string
	stop    context.CancelFunc
	done    chan error

	setting sync.Mutex // what sets goals: an older one must not come after a newer
	mu      sync.Mutex
	goals   map[mesh.Client]*goal
	wanted  map[mesh.Client]int // how often, less unwanted
	resolve func(id, account string) (mesh.Client, error)
}

const account, otherAccount = "111122223333", "444455556666"

func client(name string) mesh.Client {
	return mesh.Client{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: name}}
}

func nodeID(name string) string { return "mesh/m/virtualNode/" + name }

func (r *rig) Resolve(_ context.Context, id, account string) (mesh.Client, string, error) {
	if r.resolve != nil {
		c, err := r.resolve(id, account)
		return c, otherAccount, err
	}
	name, ok := strings.CutPrefix(id, nodeID(""))
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := client(name); ok && r.goals[c] != nil {
		return c, account, nil
	}
	return mesh.Client{}, "", api.Errorf(api.CodeNotFound, "%s does not exist: create it.\nOr not.", id)
}

func (r *rig) Want(c mesh.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted[c]++
	go func() { // the loop's goroutine
		r.setting.Lock()
		defer r.setting.Unlock()
		r.mu.Lock()
		g := r.goals[c]
		r.mu.Unlock()
		r.set(c, g)
	}()
}

func (r *rig) Unwant(c mesh.Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wanted[c]--
}

// give makes a goal what a client is to have.
func (r *rig) give(name string, s spec) { r.putGoal(name, goalWith(s)) }

func (r *rig) putGoal(name string, g *goal) {
	r.setting.Lock()
	defer r.setting.Unlock()
	r.mu.Lock()
	r.goals[client(name)] = g
	r.mu.Unlock()
	r.set(client(name), g)
}

// bareRig is a rig that is not served yet.
func bareRig(change func(*Config)) *rig {
	r := &rig{goals: map[mesh.Client]*goal{}, wanted: map[mesh.Client]int{}, done: make(chan error, 1)}
	c := Config{
		Clients: r, Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Replica: "r1", PublishWait: testSilence,
		RefusedWait: time.Hour, // longer than a test
		Authenticate: func(context.Context, string, metadata.MD) (auth.Principal, error) {
			return auth.Principal{Account: account}, nil
		},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if change != nil {
		change(&c)
	}
	r.Server = New(c)
	return r
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := bareRig(change)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	adstest.Must(t, err)
	r.address = l.Addr().String()
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() { r.done <- r.Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		r.stop()
		if err := <-r.done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	r.give("a", simple())
	return r
}

func (r *rig) open(t *testing.T, name string, delta bool) *adstest.Stream {
	t.Helper()
	return adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: nodeID(name), Instance: name + "-1", Delta: delta})
}

// feed brings a stream to the simple goal and returns the responses.
func feed(t *testing.T, s *adstest.Stream) (out []adstest.Response) {
	t.Helper()
	for _, step := range []struct{ typ, want string }{
		{adstest.CDS, "cds a b"}, {adstest.EDS, "eds b"}, {adstest.LDS, "lds in out"}, {adstest.RDS, "rds r"},
	} {
		var names []string
		switch step.typ {
		case adstest.EDS:
			names = []string{"b"}
		case adstest.RDS:
			names = []string{"r"}
		}
		adstest.Must(t, s.Send(adstest.Request{Type: step.typ, Subscribe: names, Names: names}))
		f := s.Expect(t, step.want)
		out = append(out, f)
		adstest.Must(t, s.Send(s.Answer(f, "", names...)))
	}
	return out
}

func (r *rig) state(name string) api.ProxyState {
	row, ok := r.Row(client(name))
	if !ok || len(row.Members) == 0 {
		return ""
	}
	return row.Members[0].State
}

func TestAProxyIsServedAndReported(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		dirty := make(chan mesh.Client, 100)
		r := newRig(t, func(c *Config) { c.Dirty = func(c mesh.Client) { dirty <- c } })
		s := r.open(t, "a", delta)
		feed(t, s)
		testenv.Eventually(t, "the proxy is current", func() bool { return r.state("a") == api.ProxyStateCurrent })
		row, _ := r.Row(client("a"))
		p := row.Members[0]
		want := api.DialectStateOfTheWorld
		if delta {
			want = api.DialectDelta
		}
		if p.Instance != "a-1" || p.Dialect != want || p.ResourceARN != "arn:aws:appmesh:us-east-1:"+account+":mesh/m/virtualNode/a" || p.Replica != "r1" || row.Revision != 1 {
			t.Errorf("row is %+v", row)
		}
		for _, typ := range p.Types {
			if typ.Accepted == nil || *typ.Accepted != *typ.Wanted {
				t.Errorf("%s accepted %v, wanted %s", typ.Type, typ.Accepted, *typ.Wanted)
			}
		}
		if len(p.Types) != 4 {
			t.Errorf("has %d types, want 4", len(p.Types))
		}
		if got := <-dirty; got != client("a") {
			t.Errorf("dirty is %v", got)
		}
		s.Close()
		testenv.Eventually(t, "the proxy has left", func() bool { return r.state("a") == "" })
		r.mu.Lock()
		defer r.mu.Unlock()
		if n := r.wanted[client("a")]; n != 0 {
			t.Errorf("the client is wanted %d times", n)
		}
	})
}

func TestOnePushCarriesOneVersion(t *testing.T) {
	t.Run("EMS-064", func(t *testing.T) {
		r := newRig(t, nil)
		s := r.open(t, "a", true)
		versions := map[string]bool{}
		for _, f := range feed(t, s) {
			versions[f.Version] = true
		}
		if g := goalWith(simple()); len(versions) != 1 || !versions[g.version] {
			t.Errorf("versions of the system are %v, want %s alone", versions, g.version)
		}
	})
}

func TestNobodyIsCurrentBeforeItsStreamHasSeenTheGoal(t *testing.T) {
	r := newRig(t, nil)
	s := r.open(t, "a", true)
	feed(t, s)
	testenv.Eventually(t, "the proxy is current", func() bool { return r.state("a") == api.ProxyStateCurrent })
	newer := simple()
	newer[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"))}
	r.give("a", newer)
	if got := r.state("a"); got != api.ProxyStatePending {
		t.Errorf("state right after Set is %s", got)
	}
}

func TestARefusalStaysWithItsProxy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		var mu sync.Mutex
		refused := map[api.DiscoveryType]int{}
		r := newRig(t, func(c *Config) {
			c.Meter.Refused = func(d api.DiscoveryType) { mu.Lock(); refused[d]++; mu.Unlock() }
		})
		r.give("b", simple())
		bad, good, silent := r.open(t, "a", delta), r.open(t, "a", delta), r.open(t, "a", delta)
		other := r.open(t, "b", delta)
		for _, s := range []*adstest.Stream{bad, good, silent, other} {
			feed(t, s)
		}
		newer := simple()
		newer[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"))}
		for range 3 {
			r.give("a", newer)
		}
		f := bad.Expect(t, "rds r")
		adstest.Must(t, bad.Send(bad.Answer(f, "no\nsuch thing", "r")))
		adstest.Must(t, good.Send(good.Answer(good.Expect(t, "rds r"), "", "r")))
		silent.Expect(t, "rds r") // and says nothing
		states := func() map[string]int { return r.States() }
		testenv.Eventually(t, "one refused, two current, one pending", func() bool {
			s := states()
			return s["REFUSED"] == 1 && s["CURRENT"] == 2 && s["PENDING"] == 1
		})
		row, _ := r.Row(client("a"))
		var reason string
		for _, p := range row.Members {
			for _, typ := range p.Types {
				if typ.Refusal != nil {
					reason = typ.Refusal.Message
				}
			}
		}
		if reason != "no\nsuch thing" {
			t.Errorf("the ledger says %q", reason)
		}
		mu.Lock()
		defer mu.Unlock()
		if refused[api.DiscoveryTypeRoute] != 1 {
			t.Errorf("counted %v", refused)
		}
		// The refusing one goes on, and is sent what differs.
		newer[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "3", "a"))}
		r.give("a", newer)
		bad.Expect(t, "rds r")
		good.Expect(t, "rds r")
	})
}

func TestStreamsEndWithTheStatusThatAppMeshGave(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		node   string
		code   codes.Code
		text   string
	}{
		{
			"no credentials", func(c *Config) {
				c.Authenticate = func(context.Context, string, metadata.MD) (auth.Principal, error) {
					return auth.Principal{}, api.Errorf(api.CodeMissingAuthenticationToken, "Missing Authentication Token")
				}
			}, nodeID("a"), codes.Unauthenticated, "Missing Authentication Token",
		},
		{
			"not authorised", func(c *Config) {
				c.Authorize = func(auth.Principal, From, api.Key) error { return api.Errorf(api.CodeAccessDenied, "no") }
			}, nodeID("a"), codes.PermissionDenied,
			"Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/a.",
		},
		{"unknown node, in one line", nil, nodeID("nobody"), codes.InvalidArgument, "mesh/m/virtualNode/nobody does not exist: create it. Or not."},
		{"no node", nil, "", codes.InvalidArgument, "The first request has no node id: set APPMESH_RESOURCE_ARN."},
		{
			"another region", nil, "arn:aws:appmesh:mars:" + account + ":mesh/m/virtualNode/a", codes.InvalidArgument,
			`The node id names region "mars", but this control plane is "us-east-1": correct APPMESH_RESOURCE_ARN.`,
		},
		{
			"another partition", nil, "arn:aws-cn:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/a", codes.InvalidArgument,
			`The node id names partition "aws-cn", but this control plane is "aws": correct APPMESH_RESOURCE_ARN.`,
		},
		{
			"an endless node id", nil, nodeID(strings.Repeat("a", 2<<20)), codes.InvalidArgument,
			"The node id has 2097171 bytes, at most 2048 are allowed: correct APPMESH_RESOURCE_ARN.",
		},
		{
			"a fault of ours says nothing", func(c *Config) {
				c.Authenticate = func(context.Context, string, metadata.MD) (auth.Principal, error) {
					return auth.Principal{}, errors.New("password is 1234")
				}
			}, nodeID("a"), codes.Internal, "The management service failed: see its log.",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, delta bool) {
				r := newRig(t, c.change)
				s := adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: c.node, Delta: delta})
				_ = s.Send(adstest.Request{Type: adstest.CDS}) // the stream may have ended already
				if code, text := s.End(t); code != c.code || text != c.text {
					t.Errorf("ended with %v, %q", code, text)
				}
			})
		})
	}
}

// Of two accounts that share a mesh, the one that owns the node sees its proxies,
// by the ARN of the node, whatever the node id says.
func TestProxiesAreReportedUnderTheirNodesARN(t *testing.T) {
	for name, id := range map[string]string{
		"short":           nodeID("a"),
		"ARN of the mesh": "arn:aws:appmesh:us-east-1:" + account + ":mesh/m@" + account + "/virtualNode/a",
		"ARN":             "arn:aws:appmesh:us-east-1:" + otherAccount + ":mesh/m@" + account + "/virtualNode/a",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			r.resolve = func(string, string) (mesh.Client, error) { return client("a"), nil }
			feed(t, adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: id, Instance: "1", Delta: true}))
			row, _ := r.Row(client("a"))
			if want := "arn:aws:appmesh:us-east-1:" + otherAccount + ":mesh/m/virtualNode/a"; len(row.Members) != 1 || row.Members[0].ResourceARN != want {
				t.Errorf("reported as %+v, want one of %s", row.Members, want)
			}
		})
	}
}

func TestAStoreOutOfReachIsUnavailable(t *testing.T) {
	r := newRig(t, nil)
	r.resolve = func(string, string) (mesh.Client, error) {
		return mesh.Client{}, api.Errorf(api.CodeServiceUnavailable, "This replica cannot reach its store: connect to another.")
	}
	s := r.open(t, "a", true)
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
	if code, _ := s.End(t); code != codes.Unavailable {
		t.Errorf("ended with %v", code)
	}
}

// A replica that cannot write down whom it serves sends the newest away.
func TestProxiesThatNobodyKnowsOfAreSentAway(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		old := r.open(t, "a", delta)
		feed(t, old)
		between := time.Now()
		young := r.open(t, "a", delta)
		feed(t, young)
		r.EndSince(between)
		if code, text := young.End(t); code != codes.Unavailable || !strings.Contains(text, "connect to another") {
			t.Errorf("the young one ended with %v, %q", code, text)
		}
		newer := simple()
		newer[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"))}
		r.give("a", newer)
		old.Expect(t, "rds r")
	})
}

func TestADeletedNodeEndsItsStreams(t *testing.T) {
	r := newRig(t, nil)
	s := r.open(t, "a", true)
	feed(t, s)
	r.Set(client("a"), 2, nil)
	code, text := s.End(t)
	if code != codes.InvalidArgument || !strings.Contains(text, "mesh/m/virtualNode/a does not exist") {
		t.Errorf("ended with %v, %q", code, text)
	}
}

func TestOldClientsAreToldWhy(t *testing.T) {
	r := newRig(t, nil)
	t.Run("v2 resources on the v3 service", func(t *testing.T) {
		s := r.open(t, "a", false)
		adstest.Must(t, s.Send(adstest.Request{Type: "type.googleapis.com/envoy.api.v2.Cluster"}))
		if code, text := s.End(t); code != codes.InvalidArgument || !strings.Contains(text, "v3") {
			t.Errorf("ended with %v, %q", code, text)
		}
	})
	t.Run("the v2 service", func(t *testing.T) {
		if code, text := adstest.Status(askV2(t, r.address)); code != codes.Unimplemented || !strings.Contains(text, "v3") {
			t.Errorf("ended with %v, %q", code, text)
		}
	})
	t.Run("a type that is not served is passed over, also as the first", func(t *testing.T) {
		s := r.open(t, "a", true)
		adstest.Must(t, s.Send(adstest.Request{Type: "type.googleapis.com/envoy.service.runtime.v3.Runtime", Subscribe: []string{"rtds"}}))
		feed(t, s)
	})
	t.Run("a type that is not served is passed over", func(t *testing.T) {
		s := r.open(t, "a", false)
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		adstest.Must(t, s.Send(adstest.Request{Type: "type.googleapis.com/envoy.service.runtime.v3.Runtime", Names: []string{"rtds"}}))
		f := s.Expect(t, "cds a b")
		adstest.Must(t, s.Send(s.Answer(f, "")))
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.LDS}))
		s.Expect(t, "lds in out")
	})
}

// askV2 calls as an Envoy of the xDS v2 API does.
func askV2(t *testing.T, address string) error {
	t.Helper()
	const method = "/envoy.service.discovery.v2.AggregatedDiscoveryService/StreamAggregatedResources"
	return adstest.Dial(t, address).Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
}

func TestTooManyNamesAreRefused(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		s := r.open(t, "a", delta)
		names := make([]string, maxNames+1)
		for i := range names {
			names[i] = fmt.Sprint(i)
		}
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.EDS, Names: names, Subscribe: names}))
		if code, text := s.End(t); code != codes.ResourceExhausted || !strings.Contains(text, "at most 10000") {
			t.Errorf("ended with %v, %q", code, text)
		}
	})
}

func TestTheNodeMayComeOnceOrAlways(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRig(t, nil)
		s := adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: nodeID("a"), Delta: delta, NodeAlways: true})
		feed(t, s)
	})
}

func TestDrainEndsStreamsGracefully(t *testing.T) {
	r := newRig(t, nil)
	const n = 4
	conn := adstest.Dial(t, r.address)
	var streams []*adstest.Stream
	for i := range n {
		s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a"), Instance: fmt.Sprint(i), Delta: true})
		feed(t, s)
		streams = append(streams, s)
	}
	idle := adstest.Open(t, conn, adstest.Options{Node: nodeID("a")}) // has asked for nothing
	spread := 400 * time.Millisecond
	began := time.Now()
	ended := make(chan time.Duration, n)
	for _, s := range streams {
		go func() {
			if code, text := s.End(t); code != codes.OK || text != "" {
				t.Errorf("ended with %v, %q", code, text)
			}
			ended <- time.Since(began)
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), adstest.Patience)
	defer cancel()
	r.Drain(ctx, spread)
	if ctx.Err() != nil {
		t.Fatal("drain did not end by itself")
	}
	var last time.Duration
	for range n {
		last = max(last, <-ended)
	}
	if last < spread/2 {
		t.Errorf("all ended within %v: not spread", last)
	}
	if code, _ := idle.End(t); code != codes.Unavailable {
		t.Errorf("the idle stream ended with %v", code)
	}
	s := adstest.Open(t, conn, adstest.Options{Node: nodeID("a")})
	_ = s.Send(adstest.Request{Type: adstest.CDS})
	if code, _ := s.End(t); code != codes.Unavailable {
		t.Errorf("a new stream ended with %v", code)
	}
}

func TestStreamsEndAfterTheirLifetime(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Lifetime = 100 * time.Millisecond })
	s := r.open(t, "a", true)
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS})) // more may not fit into it
	if code, text := s.End(t); code != codes.OK || text != "" {
		t.Errorf("ended with %v, %q", code, text)
	}
}

func TestLifetimesDiffer(t *testing.T) {
	least, most := lifetime, time.Duration(0)
	for range 1000 {
		d := someTime(lifetime)
		least, most = min(least, d), max(most, d)
	}
	if least < 27*time.Minute || most > 33*time.Minute || most-least < 4*time.Minute {
		t.Errorf("lifetimes between %v and %v, want 30 min give or take a tenth", least, most)
	}
}

// Only the streams are authorised again whom a change concerns, and they end while
// others go on.
func TestReauthorize(t *testing.T) {
	var forbidden atomic.Bool
	var asked atomic.Int64
	r := newRig(t, func(c *Config) {
		c.Authenticate = func(_ context.Context, _ string, md metadata.MD) (auth.Principal, error) {
			return auth.Principal{Account: account, ARN: md.Get("as")[0]}, nil
		}
		c.Authorize = func(p auth.Principal, from From, key api.Key) error {
			asked.Add(1)
			if from.Address == "" || key.Name != "a" {
				t.Errorf("asked about %+v for %v", from, key)
			}
			if forbidden.Load() && p.ARN == "mallory" {
				return api.Errorf(api.CodeAccessDenied, "no")
			}
			return nil
		}
	})
	open := func(name string) *adstest.Stream {
		return adstest.Open(t, adstest.Dial(t, r.address), adstest.Options{Node: nodeID("a"), Instance: name, Delta: true, Headers: map[string]string{"as": name}})
	}
	feed(t, open("ann"))
	mallory := open("mallory")
	feed(t, mallory)
	before := asked.Load()
	forbidden.Store(true)
	r.Reauthorize(func(p auth.Principal, _ api.Key) bool { return p.ARN == "mallory" })
	if code, text := mallory.End(t); code != codes.PermissionDenied || text != "Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:"+account+":mesh/m/virtualNode/a." {
		t.Errorf("IAM-037 ended with %v, %q", code, text)
	}
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d streams were authorised again, want 1", n)
	}
	r.Reauthorize(func(auth.Principal, api.Key) bool { return false })
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d streams were authorised again, want 1", n)
	}
}

// A change between a stream's authorisation and its joining is not missed.
func TestReauthorizeWhileJoining(t *testing.T) {
	var forbidden atomic.Bool
	var s *Server
	r := newRig(t, func(c *Config) {
		c.Authorize = func(auth.Principal, From, api.Key) error {
			if forbidden.Load() {
				return api.Errorf(api.CodeAccessDenied, "no")
			}
			forbidden.Store(true)
			s.Reauthorize(func(auth.Principal, api.Key) bool { return true })
			return nil
		}
	})
	s = r.Server
	stream := r.open(t, "a", true)
	_ = stream.Send(adstest.Request{Type: adstest.CDS})
	if code, _ := stream.End(t); code != codes.PermissionDenied {
		t.Errorf("ended with %v", code)
	}
}

func TestPoliciesAreCheckedAgain(t *testing.T) {
	var forbidden atomic.Bool
	r := newRig(t, func(c *Config) {
		c.Authorize = func(auth.Principal, From, api.Key) error {
			if forbidden.Load() {
				return api.Errorf(api.CodeAccessDenied, "no")
			}
			return nil
		}
	})
	s := r.open(t, "a", true)
	feed(t, s)
	forbidden.Store(true)
	r.Recheck()
	if code, _ := s.End(t); code != codes.PermissionDenied {
		t.Errorf("ended with %v", code)
	}
}
