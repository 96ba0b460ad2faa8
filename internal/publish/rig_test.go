package publish_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const (
	account = "111122223333"
	other   = "444455556666"
	// tooLong is how long proxies are waited for where a test says nothing else: whoever
	// is waited for in vain fails the test, on a machine however busy.
	tooLong = 10 * time.Minute
)

// replica is the line from the store to the proxies: a real store, the loop and
// the management service. A proxy's account is its header "account".
type replica struct {
	*publish.Loop
	server  *ads.Server
	address string
	conn    *grpc.ClientConn
	stop    func()

	mu      sync.Mutex
	visited map[mesh.Client]int
	built   map[mesh.Client]int
	applied int64
}

func newReplica(t *testing.T, s publish.Store, endpoints *discovery.Registry, change ...func(*replica, *ads.Config, *publish.Config)) *replica {
	t.Helper()
	log := quiet()
	r := &replica{visited: map[mesh.Client]int{}, built: map[mesh.Client]int{}}
	service := ads.Config{
		Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Replica: "r", PublishWait: tooLong,
		Authenticate: func(_ context.Context, _ string, md metadata.MD) (auth.Principal, error) {
			p := auth.Principal{Account: account}
			if as := md.Get("account"); len(as) > 0 {
				p.Account = as[0]
			}
			return p, nil
		},
		Authorize: func(p auth.Principal, _ ads.From, key api.Key) error {
			return auth.Allow(p, "appmesh:StreamAggregatedResources", api.Realm{}.ARN(key, key.Owner))
		},
		Log: log, Now: clock,
	}
	loop := publish.Config{
		Store: s, Endpoints: endpoints, Log: log, Workers: 2, Now: clock,
		Applied: func(revision int64) {
			r.mu.Lock()
			r.applied = revision
			r.mu.Unlock()
		},
		Visited: func(c mesh.Client, built bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.visited[c]++
			if built {
				r.built[c]++
			}
		},
	}
	for _, f := range change {
		f(r, &service, &loop)
	}
	r.server = ads.New(service)
	loop.Proxies = r.server
	r.Loop = publish.New(loop)
	r.server.Clients = r.Loop
	l, err := net.Listen("tcp", "127.0.0.1:0")
	adstest.Must(t, err)
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	running.Go(func() { _ = r.server.Serve(ctx, l, nil) })
	r.stop = func() { cancel(); running.Wait() }
	t.Cleanup(r.stop)
	r.conn = adstest.Dial(t, r.address)
	return r
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func clock() time.Time { return time.Now() }

// counts returns how many views were resolved and bundles built since the last
// call, and of which clients.
func (r *replica) counts() (views, builds int, of []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, n := range r.visited {
		views += n
		builds += r.built[c]
		of = append(of, c.Key.Name)
	}
	slices.Sort(of)
	r.visited, r.built = map[mesh.Client]int{}, map[mesh.Client]int{}
	return views, builds, of
}

// reach waits until the replica has published the revision.
func (r *replica) reach(t *testing.T, revision int64) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("revision %d is applied", revision), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.applied >= revision
	})
}

// proxy connects a proxy of a node of the account.
func (r *replica) proxy(t *testing.T, name string, delta bool) *adstest.Proxy {
	t.Helper()
	return adstest.Connect(t, r.conn, adstest.Options{Node: "mesh/m/virtualNode/" + name, Instance: name, Delta: delta})
}

// change is one resource that a test writes; an empty spec deletes it.
type change struct {
	owner        string // of the mesh; account when empty
	kind         api.Kind
	parent, name string
	spec         string
}

// write writes changes to mesh m in one transaction and returns its revision.
func write(t *testing.T, s *store.Store, changes ...change) int64 {
	t.Helper()
	scopes := []store.Scope{}
	for _, c := range changes {
		scopes = append(scopes, store.MeshScope(c.mesh(), "m"))
	}
	revision, err := s.Update(t.Context(), scopes, func(tx *store.Tx) error {
		for _, c := range changes {
			key := api.Key{Owner: c.mesh(), Mesh: "m", Kind: c.kind, Parent: c.parent, Name: c.name}
			if c.spec == "" {
				tx.Delete(key)
				continue
			}
			spec, err := api.DecodeSpec(c.kind, []byte(c.spec))
			if err != nil {
				return err
			}
			r := &api.Resource{Key: key, UID: "u", Version: 1, Created: time.Unix(1, 0), Updated: time.Unix(1, 0), Owner: c.mesh(), Document: json.RawMessage(c.spec), Spec: spec}
			if old := tx.Get(key); old != nil {
				r.Version = old.Version + 1
			}
			tx.Put(r)
		}
		return nil
	})
	adstest.Must(t, err)
	return revision
}

func (c change) mesh() string {
	if c.owner == "" {
		return account
	}
	return c.owner
}

func node(name string, backends ...string) change {
	list := []any{}
	for _, b := range backends {
		list = append(list, map[string]any{"virtualService": map[string]any{"virtualServiceName": b}})
	}
	spec, _ := json.Marshal(map[string]any{
		"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}},
		"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": name + ".local"}},
		"backends":         list,
	})
	return change{kind: api.KindVirtualNode, name: name, spec: string(spec)}
}

// route is the only route of a router: the weights of its targets.
func route(router string, weights ...any) change {
	targets := []any{}
	for i := 0; i < len(weights); i += 2 {
		targets = append(targets, map[string]any{"virtualNode": weights[i], "weight": weights[i+1]})
	}
	spec, _ := json.Marshal(map[string]any{"httpRoute": map[string]any{
		"match": map[string]any{"prefix": "/"}, "action": map[string]any{"weightedTargets": targets},
	}})
	return change{kind: api.KindRoute, parent: router, name: "all", spec: string(spec)}
}

// service is a virtual service with a router of its own.
func service(name, router string) []change {
	return []change{
		{kind: api.KindVirtualRouter, name: router, spec: `{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}]}`},
		{kind: api.KindVirtualService, name: name, spec: `{"provider":{"virtualRouter":{"virtualRouterName":"` + router + `"}}}`},
	}
}

var theMesh = change{kind: api.KindMesh, name: "m", spec: `{}`}

// colors is the user guide's mesh: front calls color.local, which is v1 or v2.
func colors() []change {
	out := append([]change{theMesh, node("front", "color.local"), node("v1"), node("v2")}, service("color.local", "color")...)
	return append(out, route("color", "v1", 75, "v2", 25))
}

// ready waits until the proxy has listeners and routes.
func ready(t *testing.T, p *adstest.Proxy) {
	t.Helper()
	p.Wait(t, "its configuration", func() bool { return len(p.Has(adstest.RDS)) > 0 })
}

// weights are the weights of the virtual host's only route, by cluster; one
// cluster alone counts as 1.
func weights(t *testing.T, p *adstest.Proxy) map[string]uint32 {
	t.Helper()
	out := map[string]uint32{}
	for _, rc := range p.Routes(t) {
		for _, h := range rc.GetVirtualHosts() {
			for _, r := range h.GetRoutes() {
				for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
					out[c.GetName()] = c.GetWeight().GetValue()
				}
				if c := r.GetRoute().GetCluster(); c != "" {
					out[c] = 1
				}
			}
		}
	}
	return out
}

func both(t *testing.T, f func(t *testing.T, delta bool)) {
	t.Run("delta", func(t *testing.T) { f(t, true) })
	t.Run("state of the world", func(t *testing.T) { f(t, false) })
}
