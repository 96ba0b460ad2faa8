package drain_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/drain"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const account = "111122223333"

var key = api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}

// proxies are those that a test says are connected, at every replica.
type proxies struct {
	mu     sync.Mutex
	all    []ads.Instance
	next   []ads.Instance // all, once somebody has looked
	looked int
	peer   *string           // of all of them
	peers  map[string]string // of some
	// waiting is how many clients have not followed; revision of the drain that was asked for last.
	waiting, revision int64
}

func (p *proxies) set(all ...ads.Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = all
}

func (p *proxies) of(of api.Key) []ads.Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of != key {
		return nil
	}
	p.looked++
	all := p.all
	if p.next != nil {
		p.all, p.next = p.next, nil
	}
	return all
}

// count is how often somebody looked.
func (p *proxies) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.looked
}

// Proxies has those that are connected in the ledger's words.
func (p *proxies) Proxies(context.Context, string) (out []api.Proxy, _ []api.Replica, _ error) {
	for _, i := range p.of(key) {
		peer := p.peer
		if at, ok := p.peers[i.ID]; ok {
			peer = &at
		}
		out = append(out, api.Proxy{
			Peer: peer, Instance: i.ID, Addresses: i.Addresses, ConnectedAt: api.Timestamp{Time: i.Connected},
			ResourceARN: "arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/n",
		})
	}
	return out, nil, nil
}

// Drained says how many are waited for.
func (p *proxies) Drained(_ context.Context, _ []api.Key, _, _ string, revision int64) (ledger.Drained, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision = revision
	return ledger.Drained{Clients: p.waiting, Waiting: p.waiting}, nil
}

// written is the revision of the drain that was asked for last.
func (p *proxies) written() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revision
}

func (*proxies) Changed() <-chan struct{} { return nil }

// book is a source that tells these endpoints of every query.
type book []envoy.Endpoint

func (b book) Watch(ctx context.Context, _ envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	found(b)
	<-ctx.Done()
	return ctx.Err()
}

var registered = book{{Address: "10.0.0.1", Port: 80}, {Address: "10.0.0.2", Port: 80}}

// begin knows the node and runs the drains of two replicas.
func begin(t *testing.T, connected *proxies, lasts time.Duration) [2]*drain.Drains {
	t.Helper()
	stores := storetest.Replicas(t, 2)
	document := `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "ns", "serviceName": "s"}}}`
	spec, err := api.DecodeSpec(key.Kind, []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	var out [2]*drain.Drains
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i, s := range stores {
		quiet := slog.New(slog.DiscardHandler)
		endpoints := discovery.New(discovery.Config{Source: registered, Own: true, Memory: s, Log: quiet, Now: time.Now})
		out[i] = drain.New(drain.Config{
			Store: s, Ledger: connected, Endpoints: endpoints,
			Snapshot: func(context.Context) (*mesh.Snapshot, error) {
				return mesh.NewSnapshot(1, []*api.Resource{{Key: key, Owner: account, Document: []byte(document), Spec: spec}}), nil
			},
			Instances: connected.of, Lasts: lasts, Wait: testenv.Patience, Log: quiet, Now: time.Now,
		})
		if err := out[i].Load(ctx); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := endpoints.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run of endpoints ended with %v", err)
			}
		})
		running.Go(func() {
			if err := out[i].Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return out
}

// drains starts the drain of an instance, as a request does.
func drains(t *testing.T, d *drain.Drains, instance string) api.Proxy {
	t.Helper()
	p, of, err := d.Find(t.Context(), account, instance, "", nil)
	if err != nil || of != key {
		t.Fatalf("%v, %v", of, err)
	}
	if out, err := d.Drain(t.Context(), p, of); err != nil || out.Status != api.DrainStatusDrained {
		t.Fatalf("%+v, %v", out, err)
	}
	return p
}

// A drain lasts as long as its proxy is connected to any replica, and its lease longer.
func TestADrainEndsWithItsProxysLease(t *testing.T) {
	t.Parallel()
	connected := &proxies{}
	one := ads.Instance{ID: "one", Addresses: []string{"10.0.0.1"}, Connected: time.Now()}
	connected.set(one)
	replicas := begin(t, connected, 6*time.Second) // a busy machine may do nothing for seconds
	p := drains(t, replicas[0], "one")
	known := func() bool { _, a := replicas[0].Since(p); _, b := replicas[1].Since(p); return a && b }
	testenv.Eventually(t, "both replicas know it", known)
	for began := time.Now(); time.Since(began) < 9*time.Second; <-time.After(50 * time.Millisecond) {
		if !known() {
			t.Fatalf("it ended after %v, while its proxy is connected", time.Since(began))
		}
	}
	connected.set()
	testenv.Eventually(t, "it ends", func() bool { _, a := replicas[0].Since(p); _, b := replicas[1].Since(p); return !a && !b })
}

// A proxy that was there when another one began to drain does not end that.
func TestWhoWasBesideEndsNoDrain(t *testing.T) {
	t.Parallel()
	peer := "10.0.0.1:4000"
	connected := &proxies{peer: &peer}
	began := time.Now()
	one := ads.Instance{ID: "one", Addresses: []string{"10.0.0.1", "10.0.0.2"}, Connected: began}
	two := ads.Instance{ID: "two", Addresses: []string{"10.0.0.1", "10.0.0.2"}, Connected: began.Add(time.Second), Serves: true}
	connected.set(one, two)
	replicas := begin(t, connected, time.Minute)
	p, of, err := replicas[0].Find(t.Context(), account, "one", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	// What both tell is neither's.
	out, err := replicas[0].Drain(t.Context(), p, of)
	if err != nil || out.Status != api.DrainStatusNothingToDo || !strings.Contains(out.Message, "proxy two tells 10.0.0.1, too") {
		t.Errorf("%+v, %v", out, err)
	}
	one.Addresses = []string{"10.0.0.1", "10.0.0.9"}
	two.Addresses = []string{"10.0.0.1", "10.0.0.9", "10.0.0.2"}
	connected.set(one, two)
	connected.mu.Lock()
	connected.peers = map[string]string{"two": "10.0.0.2:4000"} // one alone comes from 10.0.0.1
	connected.mu.Unlock()
	drains(t, replicas[0], "one")
	before := connected.count()
	testenv.Eventually(t, "it is looked at", func() bool { replicas[1].Joined(); return connected.count() > before+6 })
	if _, ok := replicas[0].Since(p); !ok {
		t.Error("it ended")
	}
	two.ID = "three"
	connected.set(one, two)
	replicas[1].Joined()
	testenv.Eventually(t, "one that came later ends it", func() bool { _, ok := replicas[0].Since(p); return !ok })
}

// A drain that ends while its clients are waited for is not said to be done.
func TestADrainThatEndsMeanwhile(t *testing.T) {
	t.Parallel()
	connected := &proxies{}
	connected.set(ads.Instance{ID: "one", Addresses: []string{"10.0.0.1"}, Connected: time.Now()})
	replicas := begin(t, connected, time.Minute)
	p, of, err := replicas[0].Find(t.Context(), account, "one", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	connected.mu.Lock()
	connected.waiting = 1
	connected.mu.Unlock()
	answered := make(chan api.Drain, 1)
	go func() {
		out, err := replicas[0].Drain(t.Context(), p, of)
		if err != nil {
			t.Error(err)
		}
		answered <- out
	}()
	testenv.Eventually(t, "it drains", func() bool { _, ok := replicas[1].Since(p); return ok })
	if out, err := replicas[1].Resume(t.Context(), p, of); err != nil || out.Status != api.DrainStatusResumed {
		t.Fatalf("%+v, %v", out, err)
	}
	connected.mu.Lock()
	connected.waiting = 0
	connected.mu.Unlock()
	if out := <-answered; out.Status != api.DrainStatusResumed || len(out.Addresses) > 0 {
		t.Errorf("%+v", out)
	}
}

// Whoever drains again and again prolongs what is there: neither a write nor a lease more.
func TestDrainingAgainWritesNothing(t *testing.T) {
	t.Parallel()
	connected := &proxies{}
	connected.set(ads.Instance{ID: "one", Addresses: []string{"10.0.0.1"}, Connected: time.Now()})
	replicas := begin(t, connected, time.Minute)
	p := drains(t, replicas[0], "one")
	testenv.Eventually(t, "both replicas know it", func() bool { _, a := replicas[0].Since(p); _, b := replicas[1].Since(p); return a && b })
	revision := connected.written()
	for range 5 {
		drains(t, replicas[1], "one")
	}
	if now := connected.written(); now != revision {
		t.Errorf("written at %d and again at %d", revision, now)
	}
}

// Another process in its place ends a drain, and nobody else does.
func TestWhoEndsADrain(t *testing.T) {
	t.Parallel()
	began := time.Now()
	one := ads.Instance{ID: "one", Addresses: []string{"10.0.0.1", "172.17.0.1"}, Connected: began}
	for name, test := range map[string]struct {
		other ads.Instance
		ends  bool
	}{
		"a restart":                           {ads.Instance{ID: "two", Addresses: []string{"10.0.0.1", "172.17.0.1"}, Connected: began.Add(time.Second), Serves: true}, true},
		"a restart with one address more":     {ads.Instance{ID: "two", Addresses: []string{"10.0.0.1", "10.0.0.9", "172.17.0.1"}, Connected: began.Add(time.Second), Serves: true}, true},
		"a restart that has no listeners yet": {ads.Instance{ID: "two", Addresses: one.Addresses, Connected: began.Add(time.Second)}, false},
		"another host with one in common":     {ads.Instance{ID: "two", Addresses: []string{"10.0.0.2", "172.17.0.1"}, Connected: began.Add(time.Second), Serves: true}, false},
		"what was killed there before":        {ads.Instance{ID: "two", Addresses: []string{"10.0.0.1", "172.17.0.1"}, Connected: began.Add(-time.Second), Serves: true}, false},
		"its own stream, at a new replica":    {ads.Instance{ID: "one", Addresses: one.Addresses, Connected: began.Add(time.Second), Serves: true}, false},
		"one that tells no address":           {ads.Instance{ID: "two", Connected: began.Add(time.Second), Serves: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connected := &proxies{}
			connected.set(one)
			replicas := begin(t, connected, time.Minute)
			p := drains(t, replicas[0], "one")
			testenv.Eventually(t, "the other replica knows it", func() bool { _, ok := replicas[1].Since(p); return ok })
			connected.set(one, test.other)
			replicas[1].Joined()
			if test.ends {
				testenv.Eventually(t, "it ends", func() bool { _, ok := replicas[0].Since(p); return !ok })
				return
			}
			before := connected.count()
			testenv.Eventually(t, "it is looked at", func() bool {
				replicas[1].Joined()
				return connected.count() > before+4
			})
			if _, ok := replicas[1].Since(p); !ok {
				t.Error("it ended")
			}
		})
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	connected := &proxies{}
	d := begin(t, connected, time.Minute)[0]
	connected.mu.Lock()
	connected.next = []ads.Instance{{ID: "late", Connected: time.Now()}}
	connected.mu.Unlock()
	if _, _, err := d.Find(t.Context(), account, "late", "", nil); err != nil {
		t.Errorf("one that has just connected: %v", err)
	}
	if _, _, err := d.Find(t.Context(), account, "late", "arn:aws:appmesh:us-east-1:"+account+":mesh/m/virtualNode/other", nil); err == nil || !strings.Contains(err.Error(), api.CodeNotFound) {
		t.Errorf("of another node: %v", err)
	}
}
