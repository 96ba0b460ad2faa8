package publish_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/testenv"
)

// listening is a node with HTTP listeners: ports, each perhaps with a TLS mode, such
// as "8080 9090/STRICT".
func listening(name, listeners string, backends ...string) change {
	var spec map[string]any
	out := node(name, backends...)
	_ = json.Unmarshal([]byte(out.spec), &spec)
	list := []any{}
	for text := range strings.FieldsSeq(listeners) {
		number, mode, tls := strings.Cut(text, "/")
		var port int
		_, _ = fmt.Sscan(number, &port)
		l := map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}
		if tls {
			l["tls"] = map[string]any{"mode": mode, "certificate": map[string]any{"file": map[string]any{"certificateChain": "/c.pem", "privateKey": "/k.pem"}}}
		}
		list = append(list, l)
	}
	spec["listeners"] = list
	text, _ := json.Marshal(spec)
	out.spec = string(text)
	return out
}

// inbound are the chains of a proxy's inbound listener, each a port and a transport,
// such as "8080 raw_buffer", sorted.
func inbound(t *testing.T, p *adstest.Proxy) string {
	t.Helper()
	var out []string
	for _, c := range p.Listeners(t)["lds_ingress_0.0.0.0_15000"].GetFilterChains() {
		out = append(out, fmt.Sprint(c.GetFilterChainMatch().GetDestinationPort().GetValue(), " ", c.GetFilterChainMatch().GetTransportProtocol()))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// chain is the chain of a port in a proxy's inbound listener.
func chain(t *testing.T, p *adstest.Proxy, port uint32) *listenerv3.FilterChain {
	t.Helper()
	for _, c := range p.Listeners(t)["lds_ingress_0.0.0.0_15000"].GetFilterChains() {
		if c.GetFilterChainMatch().GetDestinationPort().GetValue() == port {
			return c
		}
	}
	t.Fatalf("there is no chain of port %d", port)
	return nil
}

// toward are the clusters that lead to v1 in a client's configuration, "tls" with
// those that are TLS, sorted.
func toward(t *testing.T, p *adstest.Proxy) string {
	t.Helper()
	var out []string
	for name, c := range p.Clusters(t) {
		if port, ok := strings.CutPrefix(name, "cds_egress_m_v1_http_"); ok {
			if c.GetTransportSocket() != nil || len(c.GetTransportSocketMatches()) > 0 {
				port += " tls"
			}
			out = append(out, port)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// routed are the nodes and ports that a client's routes lead to, sorted.
func routed(t *testing.T, p *adstest.Proxy) string {
	t.Helper()
	var out []string
	for name := range weights(t, p) {
		if to, ok := strings.CutPrefix(name, "cds_egress_m_"); ok {
			out = append(out, to)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// gate holds back a proxy's answers to new listeners, or clusters and routes, until
// it is opened.
type gate struct {
	once sync.Once
	open chan struct{}
}

func shut(t *testing.T, p *adstest.Proxy, types ...string) *gate {
	g := &gate{open: make(chan struct{})}
	t.Cleanup(g.let)
	p.SetRefuse(func(r adstest.Response) string {
		if slices.Contains(types, r.Type) {
			<-g.open
		}
		return ""
	})
	return g
}

func (g *gate) let() { g.once.Do(func() { close(g.open) }) }

// settled waits until nothing is written down of turns: all are over.
func settled(t *testing.T, s *store.Store) {
	t.Helper()
	testenv.Eventually(t, "no node is on its way", func() bool {
		rows, err := s.Read(t.Context(), "ledger/turns/")
		return err == nil && len(rows) == 0
	})
}

// lone is a mesh in which front calls color.local, which is v1 alone.
func lone(v1 string) []change {
	out := append([]change{theMesh, node("front", "color.local"), listening("v1", v1)}, service("color.local", "color")...)
	return append(out, route("color", "v1", 1))
}

// hand is a clock that stands still but for when the test turns it.
type hand struct {
	start time.Time
	ahead atomic.Int64
	looks atomic.Int64 // at nodes on their way, which have begun
}

func newHand() *hand { return &hand{start: time.Now()} }

func (h *hand) read() time.Time { return h.start.Add(time.Duration(h.ahead.Load())) }

func (h *hand) turn(by time.Duration) { h.ahead.Add(int64(by)) }

// rule has the replica go by the clock, and wait that long.
func (h *hand) rule(p *publish.Config, wait time.Duration) {
	p.PublishWait, p.Now, p.Ledger = wait, h.read, looked{p.Ledger, &h.looks}
}

// until turns the clock by half a second after each look of the replica, until ok holds.
func (h *hand) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	seen := h.looks.Load()
	testenv.Eventually(t, what, func() bool {
		if ok() {
			return true
		}
		if now := h.looks.Load(); now >= seen+2 { // the first of them has ended
			seen = now
			h.turn(500 * time.Millisecond)
		}
		return false
	})
}

// looked is a ledger that counts looks.
type looked struct {
	publish.Ledger
	n *atomic.Int64
}

func (l looked) Mesh(ctx context.Context, key api.Key) ([]api.LedgerRow, []api.Replica, bool, error) {
	l.n.Add(1)
	return l.Ledger.Mesh(ctx, key)
}

var v1Key = api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: "v1"}

// rolled is the state of the newest rollout of v1.
func (k *kept) rolled(t *testing.T) api.RolloutState {
	t.Helper()
	out, err := k.reader.Rollout(t.Context(), v1Key)
	adstest.Must(t, err)
	return out.State
}
