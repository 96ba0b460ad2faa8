package envoy

import (
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// checked is an Envoy message: all of them can validate themselves.
type checked interface {
	proto.Message
	ValidateAll() error
}

// reason is the innermost part of what a validation says: which rule a value
// breaks.
func reason(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "caused by: "); i >= 0 {
		text = text[i+len("caused by: "):]
	}
	return text
}

// encode is the deterministic encoding of a message that is known to be valid.
func encode(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// encoded is a message's encoding and its content hash. What cannot be encoded
// is invalid, and that is said in the words of its validation.
func (o *Builder) encoded(m checked) (value []byte, hash string, err error) {
	if value, err = encode(m); err == nil {
		c, _ := o.scratch.Get().(*canonical)
		if c == nil {
			c = &canonical{}
		}
		hash, err = c.digest(m.ProtoReflect().Descriptor(), value)
		o.scratch.Put(c)
	}
	if err != nil {
		if broken := m.ValidateAll(); broken != nil {
			err = broken
		}
	}
	return value, hash, err
}

// references are what a resource refers to by name, each sorted: part of its
// content.
type references struct{ clusters, secrets []string }

// resource validates and encodes a message, unless one of the same content is
// in use already.
func (o *Builder) resource(name string, m checked, refs references, query *EndpointQuery) (*Resource, error) {
	value, hash, err := o.encoded(m)
	if err != nil {
		return nil, err
	}
	key := hash
	if query != nil {
		key += fmt.Sprintf(" %#v", *query) // not in the content: other accounts have equal names
	}
	return intern(o, &o.resources, key, func() (*Resource, error) {
		if err := m.ValidateAll(); err != nil {
			return nil, err
		}
		r := &Resource{Name: name, Hash: hash, Encoded: value, Clusters: refs.clusters, Secrets: refs.secrets}
		if query != nil {
			c, _ := m.(*clusterv3.Cluster)
			r.query = &discovered{query: *query, check: checkPort(c)}
		}
		return r, nil
	})
}

// hostField is the number of virtual_hosts in a RouteConfiguration.
const hostField = protowire.Number(2)

// host does for a virtual host what resource does for a resource.
func (o *Builder) host(m *routev3.VirtualHost) (*VirtualHost, error) {
	value, hash, err := o.encoded(m)
	if err != nil {
		return nil, err
	}
	return intern(o, &o.hosts, hash, func() (*VirtualHost, error) {
		if err := m.ValidateAll(); err != nil {
			return nil, err
		}
		field := protowire.AppendTag(make([]byte, 0, len(value)+8), hostField, protowire.BytesType)
		return &VirtualHost{Name: m.GetName(), Hash: hash, Clusters: clustersOf(m), encoded: protowire.AppendBytes(field, value)}, nil
	})
}

func clustersOf(m *routev3.VirtualHost) []string {
	var out []string
	for _, r := range m.GetRoutes() {
		if c := r.GetRoute().GetCluster(); c != "" {
			out = append(out, c)
		}
		for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
			out = append(out, c.GetName())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// routes makes a route configuration of encoded hosts, of which it is little
// more than a list. head is the message without any.
func (o *Builder) routes(head *routev3.RouteConfiguration, hosts []*VirtualHost) (*Resource, error) {
	if err := head.ValidateAll(); err != nil {
		return nil, err
	}
	value, hash, err := o.encoded(head)
	if err != nil {
		return nil, err
	}
	return (&Resource{Name: head.GetName(), Encoded: value, headHash: hash}).WithHosts(hosts), nil
}

// WithHosts returns the route configuration with other virtual hosts, which it
// holds by reference: nothing is decoded or joined. The receiver stays as it is.
func (r *Resource) WithHosts(hosts []*VirtualHost) *Resource {
	var space [64]string // on the stack, if that is enough
	parts := append(space[:0], "routes", r.headHash)
	for _, h := range hosts {
		parts = append(parts, h.Hash)
	}
	return &Resource{Name: r.Name, Hash: combined(parts), Encoded: r.Encoded, Hosts: hosts, headHash: r.headHash}
}

// list sorts resources into a List; the old one is returned when it holds the
// same.
func list(resources []*Resource, old *List) *List {
	slices.SortFunc(resources, func(a, b *Resource) int { return strings.Compare(a.Name, b.Name) })
	if old != nil && slices.Equal(old.Resources, resources) {
		return old
	}
	var space [64]string // on the stack, if that is enough
	parts := space[:0]
	for _, r := range resources {
		parts = append(parts, r.Name, r.Hash)
	}
	return &List{Resources: resources, Hash: combined(parts), secrets: secretsOf(resources)}
}
