package envoy

import (
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/mesh"
)

// Type is one of the discovery types.
type Type int

// The types, in the order in which what is new is sent.
const (
	Cluster        Type = iota // CDS
	LoadAssignment             // EDS
	Listener                   // LDS
	Route                      // RDS
	Secret                     // SDS; never in a bundle (D9)
	types
)

// Types lists the types of a bundle in the order in which what is new is sent.
func Types() []Type { return []Type{Cluster, LoadAssignment, Listener, Route} }

const urlPrefix = "type.googleapis.com/"

// URL is the type URL of the type's resources.
func (t Type) URL() string {
	return [types]string{
		urlPrefix + "envoy.config.cluster.v3.Cluster",
		urlPrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment",
		urlPrefix + "envoy.config.listener.v3.Listener",
		urlPrefix + "envoy.config.route.v3.RouteConfiguration",
		urlPrefix + "envoy.extensions.transport_sockets.tls.v3.Secret",
	}[t]
}

// Resource is one encoded Envoy resource. It is immutable and shared by all
// bundles that hold the same content.
type Resource struct {
	Name string
	// Hash is a truncated SHA-256 of the content in our own canonical form: the
	// same on every replica and in every release that makes the same content.
	Hash string
	// Encoded is the resource as protobuf encodes it; of a route configuration, the
	// same without its virtual hosts. Nobody writes to it. Append gives the whole.
	Encoded []byte
	// Clusters are the names of the clusters that the resource refers to, sorted,
	// without those that its virtual hosts name. AllClusters gives the whole.
	Clusters []string
	// Hosts are the virtual hosts of a route configuration, in its order.
	Hosts []*VirtualHost
	// Secrets are the names of the secrets that a listener or cluster refers to and
	// that come from the management service, sorted; ParseSecret reads them.
	Secrets []string

	headHash string      // of a route configuration: the hash of Encoded
	query    *discovered // of a cluster whose endpoints come by EDS
}

// Size is the number of bytes that Append adds.
func (r *Resource) Size() int {
	n := len(r.Encoded)
	for _, h := range r.Hosts {
		n += len(h.encoded)
	}
	return n
}

// Append adds the encoded resource to b. A protobuf message is the concatenation
// of its fields, so a route configuration is its virtual hosts one after the
// other; they are joined here and nowhere kept that way (D7).
func (r *Resource) Append(b []byte) []byte {
	b = append(b, r.Encoded...)
	for _, h := range r.Hosts {
		b = append(b, h.encoded...)
	}
	return b
}

// UnmarshalTo decodes the resource.
func (r *Resource) UnmarshalTo(m proto.Message) error {
	return proto.Unmarshal(r.Append(make([]byte, 0, r.Size())), m)
}

// AllClusters are the names of the clusters that the resource refers to; one may
// come several times.
func (r *Resource) AllClusters() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, c := range r.Clusters {
			if !yield(c) {
				return
			}
		}
		for _, h := range r.Hosts {
			for _, c := range h.Clusters {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// VirtualHost is one encoded virtual host of a route configuration; interned
// like a Resource.
type VirtualHost struct {
	Name     string
	Hash     string
	Clusters []string // sorted

	encoded []byte // the field virtual_hosts of a RouteConfiguration, with its tag
	before  string // of one with an old form's routes after its own (Beside): its hash without them
}

// Query returns the query that finds the endpoints of a cluster; ok is false
// for clusters whose endpoints do not come by EDS.
func (r *Resource) Query() (q EndpointQuery, ok bool) {
	if r.query == nil {
		return EndpointQuery{}, false
	}
	return r.query.query, true
}

// WithQuery returns a copy of a cluster whose endpoints come by EDS, and are found
// by the query.
func (r *Resource) WithQuery(q EndpointQuery) *Resource {
	c := *r
	c.query = &discovered{query: q}
	if r.query != nil {
		c.query.check = r.query.check
	}
	return &c
}

// List is all resources of one type, sorted by name.
type List struct {
	Resources []*Resource
	// Hash is the content hash of the whole list: the type's version.
	Hash string

	secrets []string // of all of them, sorted
}

// Get returns the resource of that name, or nil.
func (l *List) Get(name string) *Resource {
	i, ok := slices.BinarySearchFunc(l.Resources, name, func(r *Resource, name string) int { return strings.Compare(r.Name, name) })
	if !ok {
		return nil
	}
	return l.Resources[i]
}

// Bundle is everything that the proxies of one client are to have. It is
// immutable.
type Bundle struct {
	// View is what the bundle was built from.
	View *mesh.View

	lists [Secret]*List

	owner *Builder
	// What the resources were made from, for the next Build.
	inner   *inner    // of a node
	callees []*callee // of a node
	clashes []mesh.Problem
	pieces  []*piece
}

// List returns the resources of a type; it is never nil.
func (b *Bundle) List(t Type) *List { return b.lists[t] }

// EndpointQuery asks a source for endpoints. It is comparable.
type EndpointQuery struct {
	Source string // "cloudmap"
	// Account is whose services are meant, where the source knows those of several
	// (DISC-009).
	Account   string `json:",omitempty"`
	Namespace string
	Service   string
	// Attributes are key=value pairs, sorted, joined by newlines: an instance
	// must have all of them. In keys, = and % are percent-encoded.
	Attributes   string
	IPPreference string
	Port         uint32 // used where an instance names none
}

// Endpoint is where an instance listens. It is comparable.
type Endpoint struct {
	Address string
	Port    uint32
}
