package lastgood

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// proxy is what a test knows of an Envoy in a conversation: it is written from the protocol, not from the code.
type proxy struct {
	t     *testing.T
	b     *bench
	delta bool
	s     *Stream

	have    map[string]map[string]string // acknowledged: type, name, version and text
	version map[string]string            // state of the world
	names   map[string]set               // asked for by name
	spoken  set
	due     map[string]set // names, or "*", that were never answered on this stream
	flights []onTheWay
	serial  int

	whole   map[string]string // what it had when it was last whole at rest
	earlier bool              // it had endpoints on a stream since then
}

type onTheWay struct {
	typ, nonce, version string
	set                 map[string]string
	removed             []string
	complete            bool
}

var types = []string{clusterType, listenerType, endpointType}

func (p *proxy) send(m proto.Message) { p.s.Request(encoded(p.t, m)) }

// begin opens a stream; an Envoy that was there before says what it has.
func (p *proxy) begin() {
	p.s = p.b.Begin(p.delta)
	p.flights, p.spoken, p.due = nil, set{}, map[string]set{}
	if p.have == nil {
		p.have, p.version, p.names = map[string]map[string]string{}, map[string]string{}, map[string]set{}
		for _, typ := range types {
			p.have[typ], p.names[typ] = map[string]string{}, set{}
		}
	}
}

// open is the first request of a type.
func (p *proxy) open(typ string) {
	names := slices.Sorted(maps.Keys(p.names[typ]))
	p.spoken[typ] = struct{}{}
	p.due[typ] = set{}
	if p.delta {
		q := &discoveryv3.DeltaDiscoveryRequest{Node: node(nodeID, nil), TypeUrl: typ, ResourceNamesSubscribe: names, InitialResourceVersions: map[string]string{}}
		for name, r := range p.have[typ] {
			q.InitialResourceVersions[name] = r[:8]
		}
		if wild(typ) && len(q.InitialResourceVersions) == 0 {
			p.due[typ]["*"] = struct{}{}
		}
		for _, name := range names {
			if _, has := p.have[typ][name]; !has {
				p.due[typ][name] = struct{}{}
			}
		}
		p.send(q)
		return
	}
	if wild(typ) && p.version[typ] == "" {
		p.due[typ]["*"] = struct{}{}
	}
	for _, name := range names {
		if _, has := p.have[typ][name]; !has {
			p.due[typ][name] = struct{}{}
		}
	}
	p.send(&discoveryv3.DiscoveryRequest{Node: node(nodeID, nil), TypeUrl: typ, ResourceNames: names, VersionInfo: p.version[typ]})
}

// serve is a response of the control plane.
func (p *proxy) serve(t *rapid.T, typ string) {
	p.serial++
	f := onTheWay{typ: typ, nonce: fmt.Sprint("n", p.serial), version: fmt.Sprintf("t%07d", p.serial), set: map[string]string{}}
	f.complete = !p.delta && wild(typ)
	pool := []string{"a", "b", "c", "d"}
	if !wild(typ) {
		pool = slices.Sorted(maps.Keys(p.names[typ]))
	}
	for _, name := range pool {
		switch rapid.IntRange(0, 3).Draw(t, "what becomes of "+name) {
		case 0, 1:
			f.set[name] = fmt.Sprintf("v%07d %s", p.serial, name)
		case 2:
			if p.delta {
				f.removed = append(f.removed, name)
			}
		}
	}
	for name := range p.due[typ] { // each that is asked for is answered some time
		if name == "*" || f.set[name] != "" || slices.Contains(f.removed, name) {
			delete(p.due[typ], name)
		}
	}
	p.flights = append(p.flights, f)
	if p.delta {
		r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ, Nonce: f.nonce, RemovedResources: f.removed}
		for name, text := range f.set {
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: name, Version: text[:8], Resource: thing(p.t, typ, name, text)})
		}
		p.s.Response(pieces(encoded(p.t, r)))
		return
	}
	r := &discoveryv3.DiscoveryResponse{TypeUrl: typ, Nonce: f.nonce, VersionInfo: f.version}
	for name, text := range f.set {
		r.Resources = append(r.Resources, thing(p.t, typ, name, text))
	}
	p.s.Response(pieces(encoded(p.t, r)))
}

// answer acknowledges the oldest response, or refuses it.
func (p *proxy) answer(refuse bool) {
	f := p.flights[0]
	p.flights = p.flights[1:]
	var detail *rpcstatus.Status
	if refuse {
		detail = &rpcstatus.Status{Message: "no"}
	} else {
		if f.complete {
			clear(p.have[f.typ])
		}
		for name, text := range f.set {
			if wild(f.typ) || p.names[f.typ].has(name) {
				p.have[f.typ][name] = text
			}
		}
		for _, name := range f.removed {
			delete(p.have[f.typ], name)
		}
		p.version[f.typ] = f.version
	}
	if p.delta {
		p.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: f.typ, ResponseNonce: f.nonce, ErrorDetail: detail})
		return
	}
	p.send(&discoveryv3.DiscoveryRequest{
		TypeUrl: f.typ, ResponseNonce: f.nonce, ErrorDetail: detail, VersionInfo: p.version[f.typ], ResourceNames: slices.Sorted(maps.Keys(p.names[f.typ])),
	})
}

// toggle asks for a name, or no more.
func (p *proxy) toggle(name string) {
	of := p.names[endpointType]
	q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: endpointType}
	if of.has(name) {
		delete(of, name)
		delete(p.have[endpointType], name)
		delete(p.due[endpointType], name)
		q.ResourceNamesUnsubscribe = []string{name}
	} else {
		of[name] = struct{}{}
		p.due[endpointType][name] = struct{}{}
		q.ResourceNamesSubscribe = []string{name}
	}
	if p.delta {
		p.send(q)
		return
	}
	p.send(&discoveryv3.DiscoveryRequest{TypeUrl: endpointType, VersionInfo: p.version[endpointType], ResourceNames: slices.Sorted(maps.Keys(of))})
}

// complete says whether the Envoy has asked for all and has all.
func (p *proxy) complete() bool {
	had := p.earlier
	for key := range p.whole {
		had = had || strings.HasPrefix(key, endpointType)
	}
	for _, typ := range types {
		needed := wild(typ) || had || len(p.have[typ]) > 0
		if (needed && !p.spoken.has(typ)) || len(p.due[typ]) > 0 {
			return false
		}
	}
	return len(p.flights) == 0
}

func (p *proxy) content() map[string]string {
	out := map[string]string{}
	for typ, of := range p.have {
		for name, text := range of {
			version := ""
			if p.delta {
				version = text[:8]
			}
			out[typ+" "+name] = version + " " + string(encoded(p.t, thing(p.t, typ, name, text)))
		}
	}
	return out
}

// steps, as often as they are to be taken.
var steps = []string{
	"open", "open", "serve", "serve", "serve", "answer", "answer", "answer", "name", "settle", "settle", "rest", "rest", "reconnect", "restart",
}

// Whatever Envoy and a control plane say to each other, in either dialect: what is kept is what Envoy had acknowledged when it
// last had all that it asked for.
func TestWhatIsKeptIsWhatEnvoyHas(t *testing.T) {
	for _, delta := range []bool{true, false} {
		t.Run(map[bool]string{true: "delta", false: "state of the world"}[delta], func(t *testing.T) {
			t.Parallel()
			rounds := 0
			// How often it rests with all of it is chance's: once in fifty times a hundred conversations are too few.
			for draws := 0; draws == 0 || rounds < 20 && draws < 20; draws++ {
				rapid.Check(t, func(r *rapid.T) {
					p := &proxy{t: t, b: newBench(""), delta: delta, whole: map[string]string{}}
					p.begin()
					for range rapid.IntRange(1, 60).Draw(r, "steps") {
						step := rapid.SampledFrom(steps).Draw(r, "step")
						switch step {
						case "open":
							for _, typ := range types {
								if !p.spoken.has(typ) {
									p.open(typ)
									break
								}
							}
						case "serve":
							if len(p.spoken) > 0 && len(p.flights) < mostFlights {
								p.serve(r, rapid.SampledFrom(slices.Sorted(maps.Keys(p.spoken))).Draw(r, "type"))
							}
						case "answer":
							if len(p.flights) > 0 {
								p.answer(rapid.IntRange(0, 3).Draw(r, "refused") == 0)
							}
						case "name":
							if !p.spoken.has(endpointType) {
								p.open(endpointType)
							}
							p.toggle(rapid.SampledFrom([]string{"e", "f", "g"}).Draw(r, "name"))
						case "settle": // everything is asked for, answered and accepted
							for _, typ := range types {
								if !p.spoken.has(typ) {
									p.open(typ)
								}
							}
							for range 50 {
								for _, typ := range types {
									if len(p.due[typ]) > 0 && len(p.flights) < mostFlights {
										p.serve(r, typ)
									}
								}
								for len(p.flights) > 0 {
									p.answer(false)
								}
							}
						case "rest":
							p.b.pass(t, rest) // never so long that what is due is not waited for
							if p.complete() {
								p.whole, p.earlier = p.content(), false
								rounds++
							}
						case "reconnect", "restart":
							p.s.End()
							complete, had := p.complete(), p.content()
							spoke, endpoints := p.spoken.has(endpointType), len(p.have[endpointType]) > 0
							if step == "restart" {
								p.have = nil
							}
							p.begin()
							if complete && len(unlike(p.b.content(), had)) == 0 { // without a rest, after long unrest
								p.whole, p.earlier = had, false
							}
							if spoke {
								p.earlier = endpoints
							}
						}
						if diff := unlike(p.b.content(), p.whole); diff != nil {
							r.Fatalf("kept is not what Envoy had:\n%v", diff)
						}
					}
				})
			}
			if rounds < 20 {
				t.Errorf("Envoy had all of it only %d times: this shows nothing", rounds)
			}
		})
	}
}
