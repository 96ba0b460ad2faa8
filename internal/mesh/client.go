package mesh

import "github.com/evermesh/evermesh/internal/api"

// Client is what configuration is made for: a virtual node or a virtual gateway.
// All proxies of a client get the same. It is comparable and the key of
// everything that is kept per configuration.
type Client struct {
	Key api.Key
}

// Problem is a fault of one resource, found while its meaning for a client was
// worked out. It never stops anything else. Problem is comparable: many clients
// find the same one.
type Problem struct {
	Key     api.Key // the resource that has to change
	Reason  string  // one word, such as NotFound or NotTranslated; a metric's label
	Message string  // what is wrong, where in the spec, and what to do
}

// Reader reads resources at one revision.
type Reader interface {
	// Get returns nil for a key that does not exist.
	Get(key api.Key) *api.Resource
	// List returns the resources of a kind under a parent (the mesh's key, or a
	// router's or gateway's), sorted by name.
	List(kind api.Kind, parent api.Key) []*api.Resource
}
