//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// colors is the mesh that testdata's configurations are written for. Its names end in the domain; secured nodes speak
// mutual TLS, with certificates in dir.
func colors(domain, dir string) *resources {
	m := &resources{mesh: meshName}
	m.add(api.KindMesh, "", "", &api.MeshSpec{EgressFilter: &api.EgressFilter{Type: api.EgressFilterTypeAllowAll}})
	for name, port := range map[string]int64{"front": 8080, "blue": port, "green": port, "greeter": 9090} {
		spec := &api.VirtualNodeSpec{
			Listeners:        []api.Listener{{PortMapping: api.PortMapping{Port: port, Protocol: api.PortProtocolHTTP}}},
			ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + domain}},
		}
		if name == "front" {
			for _, of := range []string{loadHost, "greeter.local"} {
				spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: of}})
			}
		}
		if dir != "" {
			secured(spec, filepath.Join(dir, name))
		}
		m.add(api.KindVirtualNode, "", name, spec)
	}
	m.service(loadHost, "blue", "green", 75)
	m.add(api.KindVirtualService, "", "greeter.local", &api.VirtualServiceSpec{
		Provider: &api.VirtualServiceProvider{VirtualNode: &api.VirtualNodeServiceProvider{VirtualNodeName: "greeter"}},
	})
	return m
}

// way is a path of requests: a client's sidecar, a server's, and the server.
type way struct {
	client *ground.Host
	to     string // address; which one does not matter
	envoys [2]*envoyOf
	asked  int
}

// passed is an error unless both Envoys have passed on whatever was asked, over TLS where that is wanted.
func (w *way) passed(ctx context.Context, secure bool) error {
	for _, e := range w.envoys {
		requests, err := e.sum(ctx, `^cluster\..*\.upstream_rq_200$`)
		if err != nil {
			return err
		}
		handshakes, err := e.sum(ctx, `ssl\.handshake$`)
		if err != nil {
			return err
		}
		if requests < w.asked || secure != (handshakes > 0) {
			return fmt.Errorf("the Envoy on %s has passed on %d of %d requests, with %d TLS handshakes", e.host.Name(), requests, w.asked, handshakes)
		}
	}
	return nil
}

// layWay makes the hosts of a way and runs what is on them. configs are the two sidecars'.
func (r *rig) layWay(ctx context.Context, hosts []*ground.Host, domain string, configs [2]object) (*way, error) {
	w := &way{client: hosts[0], to: fmt.Sprintf("%s:%d", hosts[1].Addr(), port)}
	for _, name := range []string{"blue", "green"} {
		r.DNS().Set(name+domain, hosts[1].Addr())
	}
	server, err := hosts[1].Start(ground.Command{
		Name: "server", Path: "/proc/self/exe", Args: []string{fmt.Sprintf("127.0.0.1:%d", port)}, Env: []string{partVariable + "=server"},
	})
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, server)
	for i, ports := range []string{"", strconv.Itoa(port)} {
		if err := r.redirect(ctx, hosts[i], ports); err != nil {
			return nil, err
		}
		if w.envoys[i], err = r.runEnvoy(ctx, hosts[i], configs[i]); err != nil {
			return nil, err
		}
	}
	client := w.client.Client()
	client.Timeout = time.Second
	defer client.CloseIdleConnections()
	last := ""
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := stage.Until(ctx, "requests pass "+hosts[0].Name(), func(ctx context.Context) bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.to+"/", nil)
		if err != nil {
			return false
		}
		req.Host = loadHost
		resp, err := client.Do(req)
		if err != nil {
			last = err.Error()
			return false
		}
		last = resp.Status
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}); err != nil {
		return nil, fmt.Errorf("%w: the last one: %s", err, last)
	}
	return w, nil
}

// outcome is what came of some seconds of load on a way.
type outcome struct {
	rate float64       // requests per second
	cpu  time.Duration // of both Envoys, for each request
}

// turnsOfPair is how many turns each way of a pair has in it.
const turnsOfPair = 20

// load asks through the ways, in turns.
func (r *rig) load(ctx context.Context, ways ...*way) (map[*way]outcome, error) {
	name := filepath.Join(r.Dir(), "run", r.name("load"))
	c := loadConfig{Conns: r.scale.conns, Start: name + ".start", Turn: r.scale.pairTime / turnsOfPair, Turns: turnsOfPair, Of: len(ways)}
	before, said := make([]time.Duration, len(ways)), make([]string, len(ways))
	group, loading := errgroup.WithContext(ctx)
	var ready []string
	for i, w := range ways {
		var err error
		if before[i], err = w.used(); err != nil {
			return nil, err
		}
		c.Addr, c.Mine, c.Ready = w.to, i, fmt.Sprintf("%s.ready%d", name, i)
		ready = append(ready, c.Ready)
		text, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		group.Go(func() (err error) {
			said[i], err = w.client.Run(loading, ground.Command{
				Name: "load", Path: "/proc/self/exe", Args: []string{string(text)}, Env: []string{partVariable + "=load"},
			})
			return err
		})
	}
	group.Go(func() error { return begin(loading, c.Start, ready) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := map[*way]outcome{}
	for i, w := range ways {
		after, err := w.used()
		if err != nil {
			return nil, err
		}
		var n asked
		if err := json.Unmarshal([]byte(said[i]), &n); err != nil || n.Counted == 0 {
			return nil, fmt.Errorf("the load on %s said %q", w.client.Name(), said[i])
		}
		w.asked += n.All
		out[w] = outcome{rate: float64(n.Counted) / r.scale.pairTime.Seconds(), cpu: (after - before[i]) / time.Duration(n.All)}
	}
	return out, nil
}

// begin says when to begin, in the file start, once all files of the ready ones are there.
func begin(ctx context.Context, start string, ready []string) error {
	if err := stage.Until(ctx, "the load is connected", func(context.Context) bool {
		return !slices.ContainsFunc(ready, func(file string) bool {
			_, err := os.Stat(file)
			return err != nil
		})
	}); err != nil {
		return err
	}
	at, err := time.Now().Add(100 * time.Millisecond).MarshalText()
	if err != nil {
		return err
	}
	// As a whole, for those who look.
	if err := os.WriteFile(start+".new", at, 0o644); err != nil {
		return err
	}
	return os.Rename(start+".new", start)
}

// used is the processor time of both Envoys.
func (w *way) used() (sum time.Duration, err error) {
	for _, e := range w.envoys {
		one, err := processor(e.Pid())
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// measureTraffic sends requests through two sidecars, in pairs: for some seconds with configurations written by hand,
// and for as long with generated ones, in short turns, now these first and now those. The ratio of each pair counts.
// In every third pair there are turns with mutual TLS, too.
func measureTraffic(ctx context.Context, r *rig) ([]figure, error) {
	const name = "requests per second through two sidecars"
	hosts, instead := r.hosts(name, "front-hand", "blue-hand", "front-ours", "blue-ours", "front-secure", "blue-secure")
	if instead != nil {
		return instead, nil
	}
	ways, err := r.layWays(ctx, hosts)
	if err != nil {
		return nil, err
	}
	hand, ours, secure := ways[0], ways[1], ways[2]
	r.say("asking through two sidecars, %d pairs of %v", r.scale.pairs, r.scale.pairTime)
	var rates, costs, rate, cost, secureRates, secureCosts []float64 // ratios, and what is printed beside them
	var handRate, handCost, secureRate, secureCost []float64
	for i := range r.scale.pairs {
		pair := []*way{hand, ours}
		if i%2 == 1 {
			slices.Reverse(pair)
		}
		if i%3 == 0 {
			pair = append(pair, secure)
		}
		got, err := r.load(ctx, pair...)
		if err != nil {
			return nil, err
		}
		h, o := got[hand], got[ours]
		rates, costs = append(rates, o.rate/h.rate), append(costs, float64(o.cpu)/float64(h.cpu))
		rate, cost = append(rate, o.rate), append(cost, float64(o.cpu))
		handRate, handCost = append(handRate, h.rate), append(handCost, float64(h.cpu))
		if s, ok := got[secure]; ok {
			secureRates, secureCosts = append(secureRates, s.rate/h.rate), append(secureCosts, float64(s.cpu)/float64(h.cpu))
			secureRate, secureCost = append(secureRate, s.rate), append(secureCost, float64(s.cpu))
		}
	}
	for i, w := range ways {
		if err := w.passed(ctx, i == len(ways)-1); err != nil {
			return nil, err
		}
	}
	perSecond := func(of []float64) string { return fmt.Sprintf("%.0f", median(of)) }
	each := func(of []float64) string { return ms(time.Duration(median(of))) }
	low, high := interval(rates)
	return []figure{
		figure{
			name: name, ours: perSecond(rate), floor: perSecond(handRate), factor: fmt.Sprintf("%.3f×", median(rates)),
			note: fmt.Sprintf("median of %d pairs of %v each over %d connections, in %d turns; 95 %% interval of the median ratio %.3f to %.3f. The floor is a configuration written by hand, here and below.", len(rates), r.scale.pairTime, r.scale.conns, turnsOfPair, low, high),
		}.must("interval ≥ 0.95×", low >= 0.95),
		{name: "  processor time of both Envoys for each", ours: each(cost), floor: each(handCost), factor: fmt.Sprintf("%.3f×", median(costs))},
		{name: "  with mutual TLS", ours: perSecond(secureRate), floor: perSecond(handRate), factor: fmt.Sprintf("%.3f×", median(secureRates)), note: fmt.Sprintf("median of %d; the floor is plain.", len(secureRates))},
		{name: "  processor time of both Envoys for each", ours: each(secureCost), floor: each(handCost), factor: fmt.Sprintf("%.3f×", median(secureCosts))},
	}, nil
}

// layWays lays a way by hand, a generated one, and one with mutual TLS, each on two of the hosts.
func (r *rig) layWays(ctx context.Context, hosts []*ground.Host) (out []*way, err error) {
	certs := filepath.Join(r.Dir(), "run", "certs")
	const secureDomain = ".secure.local"
	names := map[string][]string{}
	for _, name := range []string{"front", "blue", "green", "greeter"} {
		names[name] = []string{"blue" + secureDomain, "green" + secureDomain} // both are on one host
	}
	if err := issue(certs, names); err != nil {
		return nil, err
	}
	for i, domain := range []string{".hand.local", ".ours.local", secureDomain} {
		dir := ""
		if domain == secureDomain {
			dir = certs
		}
		var configs [2]object
		for k, node := range []string{"front", "blue"} {
			if i == 0 {
				configs[k], err = byHand(node)
			} else if bundle, wrong := colors(domain, dir).bundle(node); wrong != nil {
				err = wrong
			} else {
				configs[k], err = generated(bundle)
			}
			if err != nil {
				return nil, err
			}
		}
		w, err := r.layWay(ctx, hosts[2*i:2*i+2], domain, configs)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func median(of []float64) float64 {
	of = slices.Sorted(slices.Values(of))
	if n := len(of); n%2 == 0 {
		return (of[n/2-1] + of[n/2]) / 2
	}
	return of[len(of)/2]
}

// interval is where the median of what the values are drawn from is in 95 % of cases or more, whatever they are
// spread like: between the k-th lowest and the k-th highest, for the largest k that few enough coins in a row allow.
// Fewer than six values have no such interval; theirs is from the lowest to the highest.
func interval(of []float64) (low, high float64) {
	of = slices.Sorted(slices.Values(of))
	n := len(of)
	k, below := 0, 0.0 // the probability that at most k of n coins show heads
	for one := math.Pow(0.5, float64(n)); below+one <= 0.025; k++ {
		below += one
		one *= float64(n-k) / float64(k+1)
	}
	k = max(k, 1)
	return of[k-1], of[n-k]
}
