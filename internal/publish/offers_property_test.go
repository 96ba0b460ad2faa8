package publish_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
)

// late is a mesh that random edits change while proxies accept what they get when
// they like and the ledger tells of it later still. Each state that is stored makes
// sense by itself: routes lead to nodes and ports that there are.
type late struct {
	loop      *publish.Loop
	ledger    *told
	now       time.Time
	revision  int64
	resources map[api.Key]*api.Resource
	proxies   []*lateProxy
}

type lateProxy struct {
	client   mesh.Client
	accepted *mesh.View // nil: it has just come, and is not used yet
}

const (
	lateNodes   = 3
	lateRouters = 2
)

func lateKey(kind api.Kind, parent, name string) api.Key {
	return api.Key{Owner: account, Mesh: "m", Kind: kind, Parent: parent, Name: name}
}

func newLate(t *rapid.T) *late {
	w := &late{ledger: &told{}, now: time.Unix(1000, 0), resources: map[api.Key]*api.Resource{}}
	w.loop = publish.New(publish.Config{
		Store: make(fed), Proxies: nowhere{}, Ledger: w, PublishWait: time.Hour, Log: quiet(), Workers: 1,
		Now: func() time.Time { return w.now },
	})
	next := map[api.Key]*api.Resource{}
	w.put(next, lateKey(api.KindMesh, "", "m"), &api.MeshSpec{})
	w.put(next, lateKey(api.KindVirtualNode, "", "front"), &api.VirtualNodeSpec{Backends: []api.Backend{
		{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: "s0"}}, {VirtualService: &api.VirtualServiceBackend{VirtualServiceName: "s1"}},
	}})
	for i := range lateNodes {
		w.put(next, lateKey(api.KindVirtualNode, "", fmt.Sprint("n", i)), drawLateNode(t))
	}
	for i := range lateRouters {
		w.put(next, lateKey(api.KindVirtualRouter, "", fmt.Sprint("r", i)), &api.VirtualRouterSpec{})
		w.put(next, lateKey(api.KindRoute, fmt.Sprint("r", i), "all"), drawLateRoute(t, next))
		w.put(next, lateKey(api.KindVirtualService, "", fmt.Sprint("s", i)), drawLateService(t, next))
	}
	if !sensible(next) {
		t.Fatal("the first state makes no sense")
	}
	w.store(next, true)
	w.deliver(func(*lateProxy) bool { return true })
	w.flush()
	return w
}

func (w *late) put(in map[api.Key]*api.Resource, key api.Key, spec any) {
	uid := fmt.Sprint(w.revision)
	if old := in[key]; old != nil {
		uid = old.UID
	}
	in[key] = &api.Resource{Key: key, Owner: account, Spec: spec, UID: uid, Revision: w.revision}
}

// drawLateNode draws one to three listeners.
func drawLateNode(t *rapid.T) *api.VirtualNodeSpec {
	spec := &api.VirtualNodeSpec{}
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 1, 3, rapid.ID).Draw(t, "ports") {
		l := api.Listener{PortMapping: api.PortMapping{Port: int64(8080 + i), Protocol: api.PortProtocolHTTP}}
		if mode := rapid.SampledFrom([]api.ListenerTLSMode{"", api.ListenerTLSModePermissive, api.ListenerTLSModeStrict}).Draw(t, "tls"); mode != "" {
			l.TLS = &api.ListenerTLS{Mode: mode, Certificate: api.ListenerTLSCertificate{File: &api.ListenerTLSFileCertificate{}}}
		}
		spec.Listeners = append(spec.Listeners, l)
	}
	return spec
}

// drawLateRoute draws one or two targets, some with a port that their node has.
func drawLateRoute(t *rapid.T, in map[api.Key]*api.Resource) *api.RouteSpec {
	action := api.HTTPRouteAction{}
	for range rapid.IntRange(1, 2).Draw(t, "targets") {
		to := api.WeightedTarget{VirtualNode: fmt.Sprint("n", rapid.IntRange(0, lateNodes-1).Draw(t, "target")), Weight: 1}
		if spec := in[lateKey(api.KindVirtualNode, "", to.VirtualNode)].VirtualNodeSpec(); spec != nil && rapid.Bool().Draw(t, "with a port") {
			port := rapid.SampledFrom(spec.Listeners).Draw(t, "port").PortMapping.Port
			to.Port = &port
		}
		action.WeightedTargets = append(action.WeightedTargets, to)
	}
	return &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: action}}
}

func drawLateService(t *rapid.T, in map[api.Key]*api.Resource) *api.VirtualServiceSpec {
	p := &api.VirtualServiceProvider{}
	if rapid.Bool().Draw(t, "a node provides") {
		p.VirtualNode = &api.VirtualNodeServiceProvider{VirtualNodeName: fmt.Sprint("n", rapid.IntRange(0, lateNodes-1).Draw(t, "provider"))}
	} else {
		p.VirtualRouter = &api.VirtualRouterServiceProvider{VirtualRouterName: fmt.Sprint("r", rapid.IntRange(0, lateRouters-1).Draw(t, "provider"))}
	}
	return &api.VirtualServiceSpec{Provider: p}
}

// edit makes one to three changes in one transaction, unless they make no sense.
func (w *late) edit(t *rapid.T) {
	next := maps.Clone(w.resources)
	w.revision++
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		before := maps.Clone(next)
		node := lateKey(api.KindVirtualNode, "", fmt.Sprint("n", rapid.IntRange(0, lateNodes-1).Draw(t, "node")))
		router := lateKey(api.KindVirtualRouter, "", fmt.Sprint("r", rapid.IntRange(0, lateRouters-1).Draw(t, "router")))
		switch rapid.IntRange(0, 7).Draw(t, "what") {
		case 0, 1, 2:
			w.put(next, node, drawLateNode(t))
		case 3, 4:
			w.put(next, router, &api.VirtualRouterSpec{})
			w.put(next, lateKey(api.KindRoute, router.Name, "all"), drawLateRoute(t, next))
		case 5:
			w.put(next, lateKey(api.KindVirtualService, "", fmt.Sprint("s", rapid.IntRange(0, 1).Draw(t, "service"))), drawLateService(t, next))
		case 6:
			delete(next, node)
		case 7:
			delete(next, router)
			delete(next, lateKey(api.KindRoute, router.Name, "all"))
		}
		if !sensible(next) {
			next = before
		}
	}
	w.store(next, false)
}

// sensible says whether all that is named there is there.
func sensible(in map[api.Key]*api.Resource) bool {
	for _, r := range in {
		if spec := r.RouteSpec(); spec != nil {
			for _, to := range spec.HTTPRoute.Action.WeightedTargets {
				node := in[lateKey(api.KindVirtualNode, "", to.VirtualNode)].VirtualNodeSpec()
				if node == nil || to.Port != nil && listenerOn(node, *to.Port) == nil {
					return false
				}
			}
		}
		if spec := r.VirtualServiceSpec(); spec != nil {
			if n := spec.Provider.VirtualNode; n != nil && in[lateKey(api.KindVirtualNode, "", n.VirtualNodeName)] == nil {
				return false
			}
			if n := spec.Provider.VirtualRouter; n != nil && in[lateKey(api.KindVirtualRouter, "", n.VirtualRouterName)] == nil {
				return false
			}
		}
	}
	return true
}

func listenerOn(spec *api.VirtualNodeSpec, port int64) *api.Listener {
	i := slices.IndexFunc(spec.Listeners, func(l api.Listener) bool { return l.PortMapping.Port == port })
	if i < 0 {
		return nil
	}
	return &spec.Listeners[i]
}

// store gives the loop what is other than before; proxies come and go with their node.
func (w *late) store(next map[api.Key]*api.Resource, reset bool) {
	b := store.Batch{Revision: w.revision, Reset: reset}
	for key, r := range next {
		if w.resources[key] != r {
			b.Changes = append(b.Changes, api.Change{Key: key, New: r})
		}
	}
	for key := range w.resources {
		if next[key] == nil {
			b.Changes = append(b.Changes, api.Change{Key: key})
		}
	}
	slices.SortFunc(b.Changes, func(a, b api.Change) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	for key, r := range next {
		if r.VirtualNodeSpec() != nil && w.resources[key] == nil {
			for range 2 {
				w.proxies = append(w.proxies, &lateProxy{client: mesh.Client{Key: key}})
			}
		}
	}
	w.proxies = slices.DeleteFunc(w.proxies, func(p *lateProxy) bool { return next[p.client.Key] == nil })
	slices.SortStableFunc(w.proxies, func(a, b *lateProxy) int { return strings.Compare(a.client.Key.String(), b.client.Key.String()) })
	w.resources = next
	w.loop.Batch(b)
}

func (w *late) wanted(c mesh.Client) *mesh.View {
	v, _, _ := w.loop.Shown().View(c)
	return v
}

// deliver lets proxies accept what they are to have now.
func (w *late) deliver(which func(*lateProxy) bool) {
	for _, p := range w.proxies {
		if which(p) {
			p.accepted = w.wanted(p.client)
		}
	}
}

// flush writes down what the proxies have.
func (w *late) flush() {
	w.ledger.rows = nil
	rows := map[api.Key]int{}
	for i, p := range w.proxies {
		wanted := w.wanted(p.client)
		name := fmt.Sprintf("%p", wanted.Node)
		at, ok := rows[p.client.Key]
		if !ok {
			at = len(w.ledger.rows)
			rows[p.client.Key] = at
			row := api.LedgerRow{Client: p.client.Key.String(), Replica: "a", Revision: w.revision}
			for _, key := range wanted.Held {
				row.Held = append(row.Held, key.String())
			}
			w.ledger.rows = append(w.ledger.rows, row)
		}
		member := api.Proxy{Instance: fmt.Sprint(i), State: api.ProxyStatePending, Types: []api.TypeStatus{{Type: api.DiscoveryTypeListener, Wanted: &name}}}
		if p.accepted != nil {
			has := fmt.Sprintf("%p", p.accepted.Node)
			if member.Types[0].Accepted = &has; p.accepted.Equal(wanted) {
				member.State = api.ProxyStateCurrent
			}
		}
		w.ledger.rows[at].Members = append(w.ledger.rows[at].Members, member)
	}
	w.ledger.looks.Store(w.revision) // up to which the rows say
}

// Mesh makes it the ledger.
func (w *late) Mesh(context.Context, api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	return w.ledger.rows, []api.Replica{{ID: "a", AppliedRevision: w.ledger.looks.Load(), SeenAt: api.Timestamp{Time: w.now}}}, true, nil
}

// used are the listeners that a client with this view may use; what names something
// that it does not have is an error.
func used(v *mesh.View) (out map[*api.Resource][]*api.Listener, err error) {
	out = map[*api.Resource][]*api.Listener{}
	for _, b := range v.Backends {
		switch s := b.Service; {
		case s.Node != nil:
			for i := range s.Node.VirtualNodeSpec().Listeners {
				out[s.Node] = append(out[s.Node], &s.Node.VirtualNodeSpec().Listeners[i])
			}
		case s.Router == nil || len(s.Router.Routes) == 0:
			return nil, fmt.Errorf("service %s leads nowhere", s.Key.Name)
		default:
			for _, r := range s.Router.Routes {
				for i, to := range r.WeightedTargets() {
					node := r.Targets[i]
					if node == nil {
						return nil, fmt.Errorf("route %s leads to %s, which is gone", r.Key, to.VirtualNode)
					}
					l := &node.VirtualNodeSpec().Listeners[0]
					if to.Port != nil {
						if l = listenerOn(node.VirtualNodeSpec(), *to.Port); l == nil {
							return nil, fmt.Errorf("route %s leads to port %d of %s, which it does not see", r.Key, *to.Port, to.VirtualNode)
						}
					}
					out[node] = append(out[node], l)
				}
			}
		}
	}
	return out, nil
}

// ways are how connections to a listener may be.
func ways(l *api.Listener) []string {
	switch {
	case l.TLS == nil:
		return []string{"plaintext"}
	case l.TLS.Mode == api.ListenerTLSModePermissive:
		return []string{"plaintext", "TLS"}
	default:
		return []string{"TLS"}
	}
}

func (w *late) check(t *rapid.T) {
	front := mesh.Client{Key: lateKey(api.KindVirtualNode, "", "front")}
	if _, err := used(w.wanted(front)); err != nil {
		t.Fatalf("the client is shown what makes no sense: %v", err)
	}
	for _, c := range w.proxies {
		if c.client != front {
			continue
		}
		uses, err := used(c.accepted)
		if err != nil {
			t.Fatal(err)
		}
		for node, listeners := range uses {
			for _, p := range w.proxies {
				if p.client.Key != node.Key || p.accepted == nil || p.accepted.Node.UID != node.UID {
					continue // another node of that name
				}
				for _, l := range listeners {
					has := listenerOn(p.accepted.Node.VirtualNodeSpec(), l.PortMapping.Port)
					if has == nil {
						t.Fatalf("a client uses port %d of %s, and a proxy of it does not have it", l.PortMapping.Port, node.Key.Name)
					}
					for _, way := range ways(l) {
						if !slices.Contains(ways(has), way) {
							t.Fatalf("a client uses %s at port %d of %s, and a proxy of it does not take that", way, l.PortMapping.Port, node.Key.Name)
						}
					}
				}
			}
		}
	}
}

// However nodes, routes and providers change, and however late proxies and clients
// are: a client's routes lead to what every proxy takes, and in the end everybody has
// what is stored.
func TestNobodyUsesWhatSomeProxyDoesNotTake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newLate(t)
		look := func() {
			if err := w.loop.Look(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1:
				w.edit(t)
			case 2:
				w.flush()
			case 3:
				look()
			case 4:
				w.flush()
				look()
			default:
				one := rapid.IntRange(0, len(w.proxies)-1).Draw(t, "proxy")
				w.deliver(func(p *lateProxy) bool { return p == w.proxies[one] })
			}
			w.check(t)
		}
		for range 4 * lateNodes {
			w.deliver(func(*lateProxy) bool { return true })
			w.check(t)
			w.flush()
			look()
			w.check(t)
		}
		if w.loop.Turning() {
			t.Fatal("all have accepted everything, and some node is still on its way")
		}
		for _, p := range w.proxies {
			if v := w.wanted(p.client); len(v.Held) > 0 {
				t.Fatalf("%s is shown %v as it was", p.client.Key.Name, v.Held)
			}
		}
	})
}
