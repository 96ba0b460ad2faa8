package mesh

import (
	"iter"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
)

// Reads are the keys and ranges of keys that a view was resolved from, also
// those under which nothing was found. What its services were resolved from is
// theirs.
type Reads struct {
	client api.Key
	found  bool // else nothing but the client's key was read
	// missing are the names of services that do not exist.
	missing  []string
	backends []Backend // of a node
	routes   []GatewayRoute
}

// keyRange is all keys of a kind under a parent.
type keyRange struct {
	kind   api.Kind
	parent api.Key
}

// services are those that were read; one may come twice.
func (r Reads) services() iter.Seq[*Service] {
	return func(yield func(*Service) bool) {
		for _, b := range r.backends {
			if !yield(b.Service) {
				return
			}
		}
		for _, g := range r.routes {
			if g.Service != nil && !yield(g.Service) {
				return
			}
		}
	}
}

// own calls the functions with what was read beside services.
func (r Reads) own(key func(api.Key), keys func(keyRange)) {
	key(r.client)
	if !r.found {
		return
	}
	key(r.client.MeshKey())
	for _, name := range r.missing {
		key(r.client.In(api.KindVirtualService, "", name))
	}
	if r.client.Kind == api.KindVirtualGateway {
		keys(keyRange{api.KindGatewayRoute, r.client})
	}
}

// since says whether the same keys were read as before beside services, and
// services of the same keys in the same order; now are those that are others.
func (r Reads) since(before Reads) (now []*Service, ok bool) {
	if r.found != before.found || !slices.Equal(r.missing, before.missing) {
		return nil, false
	}
	same := func(s, old *Service) bool {
		switch {
		case s == old:
			return true
		case s == nil || old == nil || s.Key != old.Key:
			return false
		}
		now = append(now, s)
		return true
	}
	ok = slices.EqualFunc(r.backends, before.backends, func(a, b Backend) bool { return same(a.Service, b.Service) }) &&
		slices.EqualFunc(r.routes, before.routes, func(a, b GatewayRoute) bool { return same(a.Service, b.Service) })
	return now, ok
}

// Index is the inverse of Reads: which clients have read a key (D6.5). It has
// two levels, as clients share services: who has read a key are clients, and
// services whose readers are clients. It is not safe for use by several
// goroutines; the publishing loop owns it.
type Index struct {
	readers map[Client]*reader
	parts   map[api.Key]*part // services
	keys    map[api.Key]*dependents
	ranges  map[keyRange]*dependents
}

// reader is a client and what it has read.
type reader struct {
	client Client
	reads  Reads
}

// part is a service as it was last read, and who has read it.
type part struct {
	service *Service
	readers set[*reader]
}

// dependents are those who have read a key or a range themselves.
type dependents struct {
	readers set[*reader]
	parts   set[*part]
}

// NewIndex makes an empty index.
func NewIndex() *Index {
	return &Index{readers: map[Client]*reader{}, parts: map[api.Key]*part{}, keys: map[api.Key]*dependents{}, ranges: map[keyRange]*dependents{}}
}

// Set makes reads what the client has read, in place of what it read before.
func (x *Index) Set(c Client, reads Reads) {
	r := x.readers[c]
	if r != nil {
		if now, ok := reads.since(r.reads); ok {
			if len(now) > 0 {
				r.reads = reads
			}
			for _, s := range now {
				x.renew(s)
			}
			return
		}
		x.Remove(c)
	}
	r = &reader{c, reads}
	x.readers[c] = r
	reads.own(
		func(k api.Key) { dependentsOf(x.keys, k).readers.add(r) },
		func(k keyRange) { dependentsOf(x.ranges, k).readers.add(r) },
	)
	for s := range reads.services() {
		x.renew(s).readers.add(r)
	}
}

// renew returns the part of a service, which is now as it was read last.
func (x *Index) renew(s *Service) *part {
	p := x.parts[s.Key]
	if p == nil {
		p = &part{}
		x.parts[s.Key] = p
	}
	if p.service == s {
		return p
	}
	x.release(p)
	p.service = s
	s.reads(
		func(k api.Key) { dependentsOf(x.keys, k).parts.add(p) },
		func(k keyRange) { dependentsOf(x.ranges, k).parts.add(p) },
	)
	return p
}

// release forgets what a part has read.
func (x *Index) release(p *part) {
	if p.service == nil {
		return
	}
	p.service.reads(
		func(k api.Key) { forget(x.keys, k, func(d *dependents) { d.parts.remove(p) }) },
		func(k keyRange) { forget(x.ranges, k, func(d *dependents) { d.parts.remove(p) }) },
	)
}

// Remove forgets the client.
func (x *Index) Remove(c Client) {
	r := x.readers[c]
	if r == nil {
		return
	}
	delete(x.readers, c)
	r.reads.own(
		func(k api.Key) { forget(x.keys, k, func(d *dependents) { d.readers.remove(r) }) },
		func(k keyRange) { forget(x.ranges, k, func(d *dependents) { d.readers.remove(r) }) },
	)
	for s := range r.reads.services() {
		p := x.parts[s.Key]
		if p == nil {
			continue // it was read twice
		}
		if p.readers.remove(r); p.readers.len() == 0 {
			x.release(p)
			delete(x.parts, s.Key)
		}
	}
}

// Affected returns the clients that have read one of the changed keys, each
// once, in no particular order. Only their views can differ.
func (x *Index) Affected(changes []api.Change) []Client {
	found := map[*reader]bool{}
	add := func(d *dependents) {
		if d == nil {
			return
		}
		for r := range d.readers.all {
			found[r] = true
		}
		for p := range d.parts.all {
			for r := range p.readers.all {
				found[r] = true
			}
		}
	}
	for _, change := range changes {
		add(x.keys[change.Key])
		if parent, ok := change.Key.ParentKey(); ok {
			add(x.ranges[keyRange{change.Key.Kind, parent}])
		}
	}
	out := make([]Client, 0, len(found))
	for r := range found {
		out = append(out, r.client)
	}
	return out
}

func dependentsOf[K comparable](m map[K]*dependents, k K) *dependents {
	d := m[k]
	if d == nil {
		d = &dependents{}
		m[k] = d
	}
	return d
}

func forget[K comparable](m map[K]*dependents, k K, leave func(*dependents)) {
	d := m[k]
	if d == nil {
		return // a key may have been read twice
	}
	if leave(d); d.readers.len()+d.parts.len() == 0 {
		delete(m, k)
	}
}
