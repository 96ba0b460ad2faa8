package envoy

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
	"weak"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// callee is all that a node needs to call a service on one of its ports. That
// does not depend on who calls, so the nodes of a mesh share it: a change of the
// service is made once, and a bundle is mostly a list of callees.
type callee struct {
	service  *mesh.Service
	meshWide meshWide
	calleeKey

	clusters []*Resource
	// plain says that no service of another name can have the domains of this
	// one's host.
	plain bool
	host  *VirtualHost         // by HTTP; nil when Envoy would refuse it
	to    []weighted           // by TCP
	idle  *durationpb.Duration // by TCP
	faults
	pieces      []*piece // of the clusters
	unvalidated []string // targets whose certificates are not looked at
}

// calleeKey is what there may be several callees for at a time.
type calleeKey struct {
	owner, mesh, name string // of the service
	at                portOf
	policy            policy
	metrics           bool // its routes and clusters say so to loggers
}

// is says whether the callee was made from these. The service is looked at first:
// mostly it is the very same, and then so is its name.
func (c *callee) is(key calleeKey, s *mesh.Service, wide meshWide) bool {
	return c != nil && c.at == key.at && c.policy == key.policy && c.meshWide == wide &&
		(c.service == s || c.calleeKey == key && c.service.Same(s))
}

// callee returns the callee of the previous bundle or of another client, or
// makes it; the bundle then has its clusters and problems.
func (b *build) callee(s *mesh.Service, at portOf, p policy) *callee {
	key := calleeKey{b.own.Key.Owner, b.mesh, s.Key.Name, at, p, b.meshWide.metrics}
	// Nearly always the previous bundle has it at the same place.
	i := len(b.callees)
	var old *callee
	if i < len(b.oldCallees) {
		old = b.oldCallees[i]
	}
	c := old
	if !c.is(key, s, b.meshWide) {
		c = b.owner.callee(key, s, b.meshWide, b.makeCallee)
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

// callee returns the callee that all share, or makes it.
func (o *Builder) callee(key calleeKey, s *mesh.Service, wide meshWide, mk func(c *callee)) *callee {
	o.mu.Lock()
	held := o.callees[key].Value()
	o.mu.Unlock()
	if held.is(key, s, wide) {
		return held
	}
	made := &callee{service: s, meshWide: wide, calleeKey: key}
	mk(made)
	o.mu.Lock()
	defer o.mu.Unlock()
	// Another goroutine may have been faster; what it made is shared then.
	if held := o.callees[key].Value(); held.is(key, s, wide) {
		return held
	}
	if o.callees == nil {
		o.callees = map[calleeKey]weak.Pointer[callee]{}
	}
	o.callees[key] = weak.Make(made)
	runtime.AddCleanup(made, func(key calleeKey) { o.forget(func() { drop(o.callees, key) }) }, key)
	return made
}

func (b *build) makeCallee(c *callee) {
	s, at := c.service, c.at
	targets(s, at, func(node *api.Resource, l *api.Listener) {
		x := b.clusterPiece(node, l, &c.policy)
		if slices.Contains(c.pieces, x) {
			return
		}
		c.pieces = append(c.pieces, x)
		if x.resource != nil {
			c.clusters = append(c.clusters, x.resource)
		}
		c.take(x.problems)
		if x.unvalidated != "" {
			c.unvalidated = append(c.unvalidated, x.unvalidated)
		}
	})
	if !isHTTP(at.protocol) {
		c.to, c.idle = b.tcpTargets(s, at, &c.faults)
		return
	}
	name := s.Key.Name
	c.plain = !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
	x := &piece{}
	b.fillHost(x, hostName(name), domainsOf(name, at.port), s.Key, func(f *faults) []*routev3.Route { return b.routes(s, at, f) })
	for _, r := range inputs(s) {
		x.cut(r)
	}
	c.host = x.host
	c.take(x.problems)
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
