package cloudmap

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/discovery"
)

// zone is a private namespace.
type zone struct {
	account   string
	namespace *namespace
}

// Zone is a private namespace as DNS sees it.
type Zone struct {
	Name   string // apps.local, in lower case
	SOATTL uint32
}

// Service is a service as DNS sees it. It is not changed any more.
type Service struct {
	// TTL has the types of the records that its instances make, with their times
	// in seconds.
	TTL map[cloudmapapi.RecordType]uint32
	// One says that an answer is one instance's (WEIGHTED, all of one weight), not
	// of several (MULTIVALUE).
	One bool
	// Instances are those that answers are made of: the healthy ones or, where none
	// is, all. They are in the order of their ids.
	Instances []Instance
}

// Instance is an instance as DNS sees it.
type Instance struct {
	ID           string
	IPv4, IPv6   netip.Addr // invalid where it has none
	Port         uint16
	CNAME, Alias string // host names, or empty
}

// Contested is how many private namespaces share their name with one of another
// account.
func (r *Registry) Contested() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.contested
}

// Loaded says whether everything was read once.
func (r *Registry) Loaded() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.loaded
}

// Zone finds the private namespace in which a name is, a name in lower case without
// the dot at its end; rest is what stands before the namespace's own name, perhaps
// nothing. Of several that fit it is the longest.
func (r *Registry) Zone(name string) (z Zone, rest string, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for at := 0; ; {
		if list := r.zones[name[at:]]; len(list) > 0 {
			return Zone{name[at:], uint32(list[0].namespace.SOATTL)}, strings.TrimSuffix(name[:at], "."), true
		}
		dot := strings.IndexByte(name[at:], '.')
		if dot < 0 {
			return Zone{}, "", false
		}
		at += dot + 1
	}
}

// Lookup finds the service of that name, in lower case, in a zone. there says that
// the name exists although no service has it: some service's name ends with it.
func (r *Registry) Lookup(zone, name string) (s *Service, there bool) {
	r.mu.RLock()
	list := r.zones[zone]
	var k *known
	if len(list) > 0 {
		if k = r.inZone(list[0], name); k != nil && k.names != nil {
			s = k.names
		}
		if k == nil {
			there = r.above[above{list[0].namespace.ID, name}] > 0
		}
	}
	r.mu.RUnlock()
	if k == nil || s != nil {
		return s, there || s != nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// What was learned meanwhile is as good: it is of now.
	if k.definition == nil {
		return nil, false
	}
	if k.names == nil {
		k.names = k.seen()
	}
	return k.names, true
}

// inZone finds a service that DNS knows; mu is held.
func (r *Registry) inZone(z *zone, name string) *known {
	for _, k := range r.places[topicOf(z.account, z.namespace.Name, name)] {
		if k.definition.Namespace == z.namespace.ID && k.definition.Type != cloudmapapi.ServiceTypeHTTP {
			return k
		}
	}
	return nil
}

// seen is what DNS sees of a service; mu is held.
func (k *known) seen() *Service {
	d := k.definition
	s := &Service{TTL: map[cloudmapapi.RecordType]uint32{}, One: d.Routing == cloudmapapi.RoutingPolicyWeighted}
	for _, r := range d.DNS {
		s.TTL[r.Type] = uint32(r.TTL)
	}
	var unhealthy []Instance
	for _, i := range k.instances {
		port, _ := strconv.ParseUint(i.Attributes[discovery.AttributePort], 10, 16)
		one := Instance{
			ID: i.ID, Port: uint16(port), CNAME: i.Attributes[attributeCNAME], Alias: i.Attributes[attributeAlias],
			IPv4: discovery.Address(i.Attributes[discovery.AttributeIPv4]), IPv6: discovery.Address(i.Attributes[discovery.AttributeIPv6]),
		}
		if d.health(i) == cloudmapapi.HealthStatusUnhealthy {
			unhealthy = append(unhealthy, one)
		} else {
			s.Instances = append(s.Instances, one)
		}
	}
	if len(s.Instances) == 0 {
		s.Instances = unhealthy
	}
	slices.SortFunc(s.Instances, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return s
}
