package mesh

import "github.com/evermesh/evermesh/internal/api"

// Client is what configuration is made for: a virtual node or a virtual gateway,
// and what its proxies say of themselves that makes their configuration another
// than that of its other proxies. All proxies of a client get the same. It is
// comparable and the key of everything that is kept per configuration.
type Client struct {
	Key    api.Key
	Traits Traits
}

// Traits are what a proxy says of itself, when it connects, that its configuration
// depends on; most have one set of them in a node. What a client reads of the snapshot
// does not depend on them.
type Traits struct {
	// Metrics: the proxy asks for the metrics extension, and its Envoy has the
	// extension that the families are made with (OBS-024).
	Metrics bool
	// NoSDS: the proxy's bootstrap has no SDS server of the workload's own. Envoy
	// waits 15 s for the secrets of a server that it does not know, with all clusters
	// and then all listeners of its start. Such proxies ask here, and are told at once
	// that there is none: what needs the secret fails, and nothing waits.
	NoSDS bool
	// Direct: nothing redirects the traffic of the workload, so its listeners are where
	// its connections go by themselves. Gateways have no interception anyway.
	Direct Direct
}

// EveryTraits are traits of every sort that proxies of a node or gateway can have, for who
// must try them all. Those of Direct are as many as there are addresses.
func EveryTraits() []Traits {
	return []Traits{
		{},
		{NoSDS: true},
		{Metrics: true},
		{Metrics: true, NoSDS: true},
		{Direct: "none 10.0.0.7"},
		{Direct: "none 80:18080 443:18443", Metrics: true},
	}
}

// Plain is the client of the same node or gateway whose proxies have no traits: it
// stands for all of them where only the node counts, as in the ledger (D8).
func (c Client) Plain() Client { return Client{Key: c.Key} }

// Problem is a fault of one resource, or a remark on it, found while its meaning for a client was
// worked out. It never stops anything else. Problem is comparable: many clients
// find the same one.
type Problem struct {
	Key     api.Key // the resource that has to change
	Reason  string  // one word, such as NotFound or NotTranslated; a metric's label
	Message string  // what is wrong, where in the spec, and what to do
}

// ReasonUnvalidated is the reason of remarks on a client that has no TLS client
// policy for a listener whose certificate is of type file or sds: it speaks TLS
// with it and does not look at that certificate (TLS-016).
const ReasonUnvalidated = "Unvalidated"

// ReasonUnenforced is the reason of remarks on what is said and not held to: on a node
// whose mesh drops what is for no service, and that has proxies without interception, which
// do not see such traffic (MESH-002); and on a listener's TLS validation, of which a mode
// that lets in plaintext checks nothing, or not the names (MTLS-009).
const ReasonUnenforced = "Unenforced"

// ReasonUnmatched is the reason of remarks on a route or gateway route whose match no
// request can meet, or hardly any.
const ReasonUnmatched = "Unmatched"

// Remark says whether everything acts as it says in spite of the problem: who runs
// the mesh should know it, and nothing is without effect.
func (p Problem) Remark() bool {
	return p.Reason == ReasonUnvalidated || p.Reason == ReasonUnenforced || p.Reason == ReasonUnmatched
}

// Reader reads resources at one revision.
type Reader interface {
	// Get returns nil for a key that does not exist.
	Get(key api.Key) *api.Resource
	// List returns the resources of a kind under a parent (the mesh's key, or a
	// router's or gateway's), sorted by name.
	List(kind api.Kind, parent api.Key) []*api.Resource
}
