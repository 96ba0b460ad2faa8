package meshdns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/cloudmap"
)

// Types of records, as queries ask for them.
const (
	typeA     = "A"
	typeAAAA  = "AAAA"
	typeCNAME = "CNAME"
	typeSRV   = "SRV"
	typeNS    = "NS"
	typeSOA   = "SOA"
)

const (
	// mostAnswers is how many instances a MULTIVALUE answer has, as Route 53's.
	mostAnswers = 8
	// virtualTTL is how long the address of a virtual service is remembered, and
	// that one has no address of a family, in seconds.
	virtualTTL = 5
)

// outcome is what becomes of a question.
type outcome string

const (
	answered outcome = "NOERROR" // perhaps without records: the name has others
	missing  outcome = "NXDOMAIN"
	foreign  outcome = "REFUSED" // not ours; it may be forwarded
	notYet   outcome = "SERVFAIL"
)

// record is one record of an answer. Names have no dot at their end; an empty name
// is the question's own, as it was spelled.
type record struct {
	name, kind string
	ttl        uint32
	addr       netip.Addr // A, AAAA
	target     string     // CNAME, SRV, NS
	port       uint16     // SRV
}

// answer is what is said to a question.
type answer struct {
	outcome outcome
	records []record
	extra   []record // addresses of what records name
	// zone is whose SOA record says how long it is remembered that there is
	// nothing; empty for none.
	zone    string
	soaTTL  uint32
	counter string // what metrics call it, where that is not the outcome
}

// resolver decides what names have.
type resolver struct {
	registry *cloudmap.Registry
	virtual  func(name string) (has, known bool)
	v4, v6   netip.Addr // of virtual services; invalid for none
}

// answer says what a name has of a type; the name is in lower case and has no dot
// at its end.
func (r *resolver) answer(name, kind string) answer {
	if !r.registry.Loaded() {
		return answer{outcome: notYet} // to say that there is nothing would be remembered
	}
	virtual, known := r.virtual(name)
	z, rest, ours := r.registry.Zone(name)
	switch {
	case !ours && virtual:
		return r.dummy(name, kind)
	case !ours && !known:
		return answer{outcome: notYet}
	case !ours:
		return answer{outcome: foreign}
	}
	out := answer{outcome: answered, zone: z.Name, soaTTL: z.SOATTL}
	if rest == "" {
		out.records = apex(z, kind)
		return out
	}
	service, there := r.registry.Lookup(z.Name, rest)
	switch {
	case service != nil && len(service.Instances) > 0:
		out.records, out.extra = has(service, name, kind)
		return out
	case virtual:
		return r.dummy(name, kind)
	case there && service == nil:
		return out // names below it have records
	}
	if records, ok := r.instance(z.Name, rest, kind); ok {
		out.records = records
		return out
	}
	out.outcome = missing
	if !known {
		return answer{outcome: notYet}
	}
	return out
}

// apex is what the namespace's own name has.
func apex(z cloudmap.Zone, kind string) []record {
	switch kind {
	case typeSOA:
		return []record{{kind: typeSOA, ttl: z.SOATTL}}
	case typeNS:
		return []record{{kind: typeNS, ttl: z.SOATTL, target: "ns." + z.Name}}
	}
	return nil
}

// dummy is what the name of a virtual service has: an address at which nobody is.
func (r *resolver) dummy(name, kind string) answer {
	out := answer{outcome: answered, zone: name, soaTTL: virtualTTL, counter: "VIRTUAL"}
	switch {
	case kind == typeA && r.v4.IsValid():
		out.records = []record{{kind: kind, ttl: virtualTTL, addr: r.v4}}
	case kind == typeAAAA && r.v6.IsValid():
		out.records = []record{{kind: kind, ttl: virtualTTL, addr: r.v6}}
	}
	return out
}

// has is what a service's name has of a type.
func has(s *cloudmap.Service, name, kind string) (records, extra []record) {
	if ttl, ok := s.TTL[typeCNAME]; ok {
		// It stands for all other types.
		for _, i := range pick(s, func(i cloudmap.Instance) bool { return i.CNAME != "" }) {
			records = append(records, record{kind: typeCNAME, ttl: ttl, target: strings.TrimSuffix(i.CNAME, ".")})
		}
		return records, nil
	}
	ttl, ok := s.TTL[cloudmapapi.RecordType(kind)]
	if !ok {
		return nil, nil
	}
	for _, i := range pick(s, func(i cloudmap.Instance) bool { return i.Alias != "" && kind != typeSRV || fits(i, kind) }) {
		switch {
		case i.Alias != "":
			records = append(records, record{kind: typeCNAME, ttl: ttl, target: strings.TrimSuffix(i.Alias, ".")})
		case kind == typeA:
			records = append(records, record{kind: kind, ttl: ttl, addr: i.IPv4})
		case kind == typeAAAA:
			records = append(records, record{kind: kind, ttl: ttl, addr: i.IPv6})
		case kind == typeSRV:
			target := i.ID + "." + name
			records = append(records, record{kind: kind, ttl: ttl, target: target, port: i.Port})
			extra = append(extra, addresses(target, ttl, i)...)
		}
	}
	return distinct(records), extra
}

// distinct leaves each record once: instances may be at one place.
func distinct(records []record) []record {
	seen := make(map[record]bool, len(records))
	return slices.DeleteFunc(records, func(r record) bool {
		was := seen[r]
		seen[r] = true
		return was
	})
}

// fits says whether an instance makes a record of the type.
func fits(i cloudmap.Instance, kind string) bool {
	switch kind {
	case typeA:
		return i.IPv4.IsValid()
	case typeAAAA:
		return i.IPv6.IsValid()
	case typeSRV:
		return i.Port != 0 && (i.IPv4.IsValid() || i.IPv6.IsValid())
	}
	return false
}

func addresses(name string, ttl uint32, i cloudmap.Instance) (out []record) {
	if i.IPv4.IsValid() {
		out = append(out, record{name: name, kind: typeA, ttl: ttl, addr: i.IPv4})
	}
	if i.IPv6.IsValid() {
		out = append(out, record{name: name, kind: typeAAAA, ttl: ttl, addr: i.IPv6})
	}
	return out
}

// pick chooses among the instances that fit: one of them, all of one weight, or
// some in any order. A service has one weight for all instances, as in Cloud Map.
func pick(s *cloudmap.Service, fits func(cloudmap.Instance) bool) []cloudmap.Instance {
	all := slices.DeleteFunc(slices.Clone(s.Instances), func(i cloudmap.Instance) bool { return !fits(i) })
	most := mostAnswers
	if s.One {
		most = 1
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), most)]
}

// instance is what the name of an instance of a service with SRV records has:
// <instance>.<service>.
func (r *resolver) instance(zone, rest, kind string) (records []record, ok bool) {
	for at := range len(rest) {
		if rest[at] != '.' {
			continue
		}
		s, _ := r.registry.Lookup(zone, rest[at+1:])
		if s == nil {
			continue
		}
		ttl, srv := s.TTL[typeSRV]
		if !srv {
			continue
		}
		for _, i := range s.Instances {
			if !strings.EqualFold(i.ID, rest[:at]) {
				continue
			}
			for _, one := range addresses("", ttl, i) {
				if one.kind == kind {
					records = append(records, one)
				}
			}
			return records, true
		}
	}
	return nil, false
}
