package main

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// pipes passes connections to a unix socket on to an address, and can cut them.
type pipes struct {
	mu   sync.Mutex
	to   string // empty while nothing is passed on
	open []net.Conn
}

// aim passes connections on to another address from now on.
func (p *pipes) aim(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = address
}

// dial connects to the address.
func (p *pipes) dial() (net.Conn, error) {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	return net.Dial("tcp", to)
}

// pipe listens on a socket until the test ends.
func pipe(t *testing.T, address string) (*pipes, string) {
	t.Helper()
	path := adstest.Socket(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &pipes{to: address}
	var at sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		at.Wait()
	})
	at.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := p.dial()
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, in, out)
			p.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				at.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
					_ = way[1].Close()
				})
			}
		}
	})
	return p, path
}

func (p *pipes) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

// Real Envoys under a quota of one: the second is told code 8 and goes on asking; the
// first comes back whatever happened meanwhile, and nobody's configuration is touched.
func TestRealEnvoysHaveAQuota(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, "--drain-seconds", "0", "--auth", "off", "--quotas", "aws")
	facts, err := client.ReadFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.call(t.Context(), "CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: "apps", VirtualNodeName: "n", Spec: api.VirtualNodeSpec{}}, nil); err != nil {
		t.Fatal(err)
	}
	limit := func(value string) {
		t.Helper()
		if got := run(t.Context(), []string{"quota", "set", "--data-dir", dir, "000000000000", "L-606A910B", value}); got != 0 {
			t.Fatalf("quota set: exit code %d", got)
		}
	}
	limit("1")
	line, path := pipe(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	newcomers, newcomersPath := pipe(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	connected := func(instance string) (at time.Time) {
		var out api.ListProxiesOutput
		if err := p.call(t.Context(), "ListProxies", api.ListProxiesInput{}, &out); err != nil {
			return at
		}
		for _, x := range out.Proxies {
			if x.Instance == instance && x.State == api.ProxyStateCurrent {
				at = x.ConnectedAt.Time
			}
		}
		return at
	}
	const refusal = ": 8, arn:aws"
	whole := t // what the next part needs too
	var third *adstest.Envoy
	node := adstest.Options{Node: "mesh/apps/virtualNode/n", Delta: true}
	node.Instance = "first"
	first := adstest.StartEnvoy(t, node, path)
	eventually(t, "the first is connected", func() bool { return !connected("first").IsZero() })
	const told = ": 8, arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/n has 1 connected Envoys, and its quota is 1"
	node.Instance = "second"
	second := adstest.StartEnvoy(t, node, path)
	t.Run("TRBL-019 one too many is not ready, and those that run stay so", func(t *testing.T) {
		adstest.LogEnvoy(t)
		second.Wait(t, "it is told so", func() bool { return strings.Contains(second.Log(), told) })
		for name, e := range map[string]struct {
			envoy *adstest.Envoy
			state string
		}{"the first": {first, "LIVE"}, "the second": {second, "PRE_INITIALIZING"}} {
			if state := strings.TrimSpace(e.envoy.Get(t, "/ready")); state != e.state {
				t.Errorf("%s is %s, want %s", name, state, e.state)
			}
		}
	})
	t.Run("QUOTA-002 EMS-011 one too many is told code 8", func(t *testing.T) {
		adstest.LogEnvoy(t)
		second.Wait(t, "it is told so", func() bool { return strings.Contains(second.Log(), told) })
		if !connected("second").IsZero() {
			t.Error("it is connected all the same")
		}
		limit("2")
		second.Wait(t, "it comes in when there is room", func() bool { return !connected("second").IsZero() })
	})
	t.Run("EMS-014 EMS-011 those that were there come back, however low the quota is", func(t *testing.T) {
		adstest.LogEnvoy(t)
		limit("1")
		node.Instance = "third"
		third = adstest.StartEnvoy(whole, node, newcomersPath)
		third.Wait(t, "a third is refused", func() bool { return strings.Contains(third.Log(), refusal) })
		before := time.Now()
		line.cut()
		for _, name := range []string{"first", "second"} {
			eventually(t, "the "+name+" is back", func() bool { return connected(name).After(before) })
		}
		if strings.Contains(first.Log(), refusal) {
			t.Errorf("the first was refused:\n%s", first.Log())
		}
	})
	t.Run("EMS-014 they come back after a restart, though somebody else asks for a seat before", func(t *testing.T) {
		adstest.LogEnvoy(t)
		line.aim("")
		newcomers.aim("")
		told := func(e *adstest.Envoy) int { return strings.Count(e.Log(), refusal) }
		p.term(t)
		before := map[*adstest.Envoy]int{first: told(first), second: told(second), third: told(third)}
		p = start(whole, dir, "--drain-seconds", "0", "--auth", "off", "--quotas", "aws")
		newcomers.aim(p.xds(t))
		eventually(t, "the third has asked", func() bool { return told(third) > before[third] || !connected("third").IsZero() })
		line.aim(p.xds(t))
		for _, name := range []string{"first", "second"} {
			eventually(t, "the "+name+" is back", func() bool { return !connected(name).IsZero() })
		}
		if told(first) > before[first] || told(second) > before[second] {
			t.Errorf("one was refused:\n%s\n%s", first.Log(), second.Log())
		}
	})
}
