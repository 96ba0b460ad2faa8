package envoy

import (
	"slices"
	"strconv"
	"strings"
	"unique"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// callee is all that a node needs to call a service on one of its ports. That
// does not depend on who calls but for the policy, so the nodes of a mesh share it:
// a change of the service is made once, and a bundle is mostly a list of callees.
type callee struct {
	service  *mesh.Service
	meshWide meshWide
	calleeKey
	*served

	clusters    []*Resource
	problems    []mesh.Problem
	pieces      []*piece // of the clusters
	unvalidated []string // targets whose certificates are not looked at
}

// calleeKey is what there may be several callees for at a time.
type calleeKey struct {
	servedKey
	policy unique.Handle[policy]
}

// is says whether the callee was made from these. The service is looked at first:
// mostly it is the very same, and then so is its name.
func (c *callee) is(key calleeKey, s *mesh.Service, wide meshWide) bool {
	return c != nil && c.at == key.at && c.policy == key.policy && c.meshWide == wide &&
		(c.service == s || c.calleeKey == key && c.service.Same(s))
}

// served is the part of a callee that is the same whatever the policy: policies
// say how to speak with targets, not which they are.
type served struct {
	of   *mesh.Service
	wide meshWide
	key  servedKey

	// plain says that no service of another name can have the domains of this
	// one's host.
	plain bool
	host  *VirtualHost         // by HTTP; nil when Envoy would refuse it
	to    []weighted           // by TCP
	idle  *durationpb.Duration // by TCP
	found faults
}

// servedKey is what there may be several of at a time.
type servedKey struct {
	owner, mesh, name string // of the service
	at                portOf
	metrics           bool // its routes and clusters say so to loggers
}

func (x *served) is(key servedKey, s *mesh.Service, wide meshWide) bool {
	return x != nil && x.wide == wide && x.key == key && (x.of == s || x.of.Same(s))
}

// callee returns the callee of the previous bundle or of another client, or
// makes it; the bundle then has its clusters and problems.
func (b *build) callee(s *mesh.Service, at portOf, p unique.Handle[policy]) *callee {
	key := calleeKey{servedKey{b.own.Key.Owner, b.mesh, s.Key.Name, at, b.meshWide.metrics}, p}
	// Nearly always the previous bundle has it at the same place.
	i := len(b.callees)
	var old *callee
	if i < len(b.oldCallees) {
		old = b.oldCallees[i]
	}
	c := old
	if !c.is(key, s, b.meshWide) {
		c = shared(b.owner, &b.owner.callees, key, func(c *callee) bool { return c.is(key, s, b.meshWide) }, func() *callee {
			return b.makeCallee(key, s)
		})
		if old == nil || !slices.Equal(old.clusters, c.clusters) {
			b.clustersDiffer = true
		}
	}
	b.callees = append(b.callees, c)
	b.report(c.problems)
	for _, target := range c.unvalidated {
		b.unvalidated(target)
	}
	return c
}

func (b *build) makeCallee(key calleeKey, s *mesh.Service) *callee {
	c := &callee{service: s, meshWide: b.meshWide, calleeKey: key}
	p := key.policy.Value()
	var f faults
	targets(s, key.at, func(node *api.Resource, l *api.Listener) {
		x := b.clusterPiece(node, l, &p)
		if slices.Contains(c.pieces, x) {
			return
		}
		c.pieces = append(c.pieces, x)
		if x.resource != nil {
			c.clusters = append(c.clusters, x.resource)
		}
		f.take(x.problems)
		if x.unvalidated != "" {
			c.unvalidated = append(c.unvalidated, x.unvalidated)
		}
	})
	c.served = shared(b.owner, &b.owner.served, key.servedKey, func(x *served) bool { return x.is(key.servedKey, s, b.meshWide) }, func() *served {
		return b.makeServed(key.servedKey, s)
	})
	f.take(c.found.problems)
	c.problems = f.problems
	return c
}

func (b *build) makeServed(key servedKey, s *mesh.Service) *served {
	out := &served{of: s, wide: b.meshWide, key: key}
	if !isHTTP(key.at.protocol) {
		out.to, out.idle = b.tcpTargets(s, key.at, &out.found)
		return out
	}
	name := s.Key.Name
	out.plain = !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
	x := &piece{}
	b.fillHost(x, hostName(name), domainsOf(name, key.at.port), s.Key, func(f *faults) []*routev3.Route { return b.routes(s, key.at, f) })
	for _, r := range inputs(s) {
		x.inspect(r)
	}
	out.host, out.found = x.host, x.faults
	return out
}

// domainsOf are the host names of a service's requests on a port.
func domainsOf(name string, port uint32) []string {
	return []string{name, name + ":" + strconv.FormatUint(uint64(port), 10)}
}

// take adds another's problems.
func (f *faults) take(problems []mesh.Problem) {
	for _, p := range problems {
		if !slices.Contains(f.problems, p) {
			f.problems = append(f.problems, p)
		}
	}
}

// targets calls fn with the nodes and listeners behind a service's port. One may
// come twice.
func targets(s *mesh.Service, at portOf, fn func(*api.Resource, *api.Listener)) {
	switch {
	case s.Router != nil:
		for _, r := range routesOn(s.Router, at, nil) {
			for _, x := range shares(r, nil) {
				fn(x.node, x.listener)
			}
		}
	case s.Node != nil:
		fn(s.Node, at.listener(s.Node))
	}
}
