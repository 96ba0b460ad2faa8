package drain_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/drain"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(storetest.WithEtcd{M: m}) }

const account = "111122223333"

var key = api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}

// proxies are those that a test says are connected, at every replica.
type proxies struct {
	mu     sync.Mutex
	all    []ads.Instance
	looked int
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
	return p.all
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
		out = append(out, api.Proxy{
			Instance: i.ID, Addresses: i.Addresses, ConnectedAt: api.Timestamp{Time: i.Connected},
			ResourceARN: "arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/n",
		})
	}
	return out, nil, nil
}

// Drained says that nobody is waited for.
func (*proxies) Drained(context.Context, api.Key, string, string, int64) (ledger.Drained, error) {
	return ledger.Drained{}, nil
}

func (*proxies) Changed() <-chan struct{} { return nil }

// begin makes the node and runs the drains of two replicas.
func begin(t *testing.T, connected *proxies, lasts time.Duration) [2]*drain.Drains {
	t.Helper()
	stores := storetest.Replicas(t, 2)
	document := `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "ns", "serviceName": "s"}}}`
	spec, err := api.DecodeSpec(key.Kind, []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stores[0].Update(t.Context(), []store.Scope{store.MeshScope(key.Owner, key.Mesh)}, func(tx *store.Tx) error {
		tx.Put(&api.Resource{Key: key, UID: "u", Version: 1, Owner: account, Document: []byte(document), Spec: spec, Created: time.Now(), Updated: time.Now()})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var out [2]*drain.Drains
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i, s := range stores {
		quiet := slog.New(slog.DiscardHandler)
		out[i] = drain.New(drain.Config{
			Store: s, Ledger: connected, Endpoints: discovery.New(discovery.Config{Memory: s, Log: quiet, Now: time.Now}),
			Instances: connected.of, Lasts: lasts, Log: quiet, Now: time.Now,
		})
		if err := out[i].Load(ctx); err != nil {
			t.Fatal(err)
		}
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
	p, of, err := d.Find(t.Context(), account, instance, "")
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
	replicas := begin(t, connected, 2*time.Second)
	p := drains(t, replicas[0], "one")
	known := func() bool { _, a := replicas[0].Since(p); _, b := replicas[1].Since(p); return a && b }
	testenv.Eventually(t, "both replicas know it", known)
	for began := time.Now(); time.Since(began) < 5*time.Second; <-time.After(50 * time.Millisecond) {
		if !known() {
			t.Fatalf("it ended after %v, while its proxy is connected", time.Since(began))
		}
	}
	connected.set()
	testenv.Eventually(t, "it ends", func() bool { _, a := replicas[0].Since(p); _, b := replicas[1].Since(p); return !a && !b })
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
	found := make(chan error, 1)
	go func() {
		_, _, err := d.Find(t.Context(), account, "late", "")
		found <- err
	}()
	connected.set(ads.Instance{ID: "late", Connected: time.Now()})
	if err := <-found; err != nil {
		t.Errorf("one that has just connected: %v", err)
	}
	if _, _, err := d.Find(t.Context(), account, "late", "arn:aws:appmesh:us-east-1:"+account+":mesh/m/virtualNode/other"); err == nil || !strings.Contains(err.Error(), api.CodeNotFound) {
		t.Errorf("of another node: %v", err)
	}
}
