// Package rest is the wire: HTTP requests in the AWS protocol rest-json become
// one of a few generic verbs over the store, and errors become AWS's error
// answers. It is the only package that knows HTTP, and the only one that turns
// an error into a status.
//
// A request passes, in this order: Server.ServeHTTP (size, signature, rate),
// the mux filled from the operations of the models, bind (path, query and body
// become one document), model.Check, and a verb (create.go; describe, update and
// delete in change.go; list.go; tags.go). What the verbs share is in verbs.go.
// The seven kinds of App Mesh share the verbs; what differs between them is a
// row of api.Kinds. Evermesh's own operations are in evermesh.go.
package rest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// MaxBody is the size of the largest request body in bytes.
const MaxBody = 1 << 20

// Config is what a Server needs. Store, Realm and Log are required.
type Config struct {
	Store *store.Store
	Realm api.Realm
	Log   *slog.Logger
	// Verify authenticates a request; nil takes every caller for Anonymous.
	Verify    func(context.Context, auth.Request) (auth.Principal, error)
	Anonymous auth.Principal
	// Holds says whether the key of who was authenticated, or what its session was made
	// from, is there yet: watches ask again and again. nil says that it is.
	Holds func(auth.Principal) error
	// Rate is the number of requests per second that one access key may make,
	// with bursts of twice that; 0 is no limit.
	Rate float64
	// Quotas bound how many resources there may be in the meshes of an account; nil
	// leaves that to settings of meshes. A Refresher is asked anew before it refuses.
	Quotas mesh.Limits
	// Ledger answers what the proxies hold.
	Ledger Ledger
	// Drains takes proxies out of what others are sent; nil drains none.
	Drains Drains
	// Snapshot is every resource as it is now, or later.
	Snapshot func(context.Context) (*mesh.Snapshot, error)
	// Services are those around the mesh that are served on the same endpoint.
	Services []*service.Service
	// Elsewhere are those of Services that are switched to another place, by their
	// signing names; ElsewhereFor is the one account that may use them.
	Elsewhere    map[string]*forward.Service
	ElsewhereFor string
	// Authorizer says what a principal may do; nil is auth.Roots.
	Authorizer auth.Authorizer
	// MeshMade is told who has made a mesh, before the answer is sent; nil is told
	// nothing.
	MeshMade func(ctx context.Context, p auth.Principal)
	// Certificates tells the condition keys of the tags of a certificate or an authority,
	// by its ARN; nil knows none.
	Certificates func(ctx context.Context, arn string) (map[string][]string, error)
	// Exists says whether a certificate or an authority is there, by its ARN, for who wants
	// to know what a node refers to; nil knows none. What is elsewhere is not asked for.
	Exists func(ctx context.Context, arn string) (bool, error)
	// Authority is the status of an authority of ACM PCA, by its ARN, empty for one that
	// does not exist: a mesh's settings name such. nil knows none.
	Authority func(ctx context.Context, arn string) (status string, err error)
	// Shares says what owners of meshes let other accounts do; nil is nothing.
	Shares Shares
	// Memory is what callers are refused by; nil never has to catch up with the store.
	Memory *catchup.Memory
	// Audit keeps a record of every call (D2); nil keeps none.
	Audit service.Auditor
	// Observe is told of every answered request; nil is allowed.
	Observe func(operation, code string, took time.Duration)
	// AccessLog, when set, gets a line for every request.
	AccessLog *slog.Logger
	Now       func() time.Time
	NewID     func() string
}

// Shares says what meshes are shared for.
type Shares interface {
	// Shared says whether the account may do the action (appmesh:CreateRoute) in
	// another's mesh.
	Shared(account string, mesh api.Key, action string) bool
	// Meshes are those of other accounts that are shared with the account, sorted by
	// owner and name.
	Meshes(account string) []api.Key
}

// Ledger is the reader of what connected proxies have accepted.
type Ledger interface {
	Proxies(ctx context.Context, account string) ([]api.Proxy, []api.Replica, error)
	Rollout(ctx context.Context, key api.Key) (api.Rollout, error)
	// Reached is Rollout with every proxy that the key concerns.
	Reached(ctx context.Context, key api.Key) (api.Rollout, []api.Proxy, error)
	// Changed is closed at the next change that may concern a rollout.
	Changed() <-chan struct{}
}

// Server answers the App Mesh API and Evermesh's own operations.
type Server struct {
	Config
	mux    *http.ServeMux
	rates  *rates
	bodies *bodies
	// appMesh checks what a plan is to change; plans holds the one at work.
	appMesh *model.Model
	own     map[string]handler // of App Mesh's operations, by name
	plans   chan struct{}
	offered map[string]*offered // by signing name
}

// call is one request on its way to a verb.
type call struct {
	op        string
	action    string // what the caller must be allowed: appmesh:CreateMesh
	principal auth.Principal
	doc       map[string]any
	id        string
	key       api.Key // what it asked to run on, once that is known

	request *http.Request
	at      time.Time
	keys    map[string][]string // made by Server.keys
	source  string              // of its record: appmesh.amazonaws.com
	reads   bool                // it changes nothing
	to      *target             // of a service around the mesh; nil for the mesh's own
	asked   *service.Call       // what that service was asked
	out     any                 // and what it answered
	about   []string            // ARNs, of a service elsewhere
	// authorized says that policies were asked.
	authorized bool
	tags       []api.TagRef // that the call puts on something
	untags     []string     // keys of those that it takes off
	refers     []api.Key    // to which what it writes refers
	named      mesh.Named   // the certificates and authorities that it names
	// committed says that a transaction has carried the call's record.
	committed bool
}

// handler is an operation: it returns the answer's body, or an error.
type handler func(ctx context.Context, c *call) (any, error)

// New makes a Server from the models of App Mesh and of Evermesh.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, mux: http.NewServeMux(), rates: newRates(c.Rate), bodies: newBodies(), plans: make(chan struct{}, 1)}
	appMesh, err := model.AppMesh()
	if err != nil {
		return nil, err
	}
	evermesh, err := model.Evermesh()
	if err != nil {
		return nil, err
	}
	s.appMesh = appMesh
	if s.Authorizer == nil {
		s.Authorizer = auth.Roots{}
	}
	if s.offered, err = offer(c.Services); err != nil {
		return nil, err
	}
	s.own = s.verbs()
	if err := s.register(appMesh, s.own); err != nil {
		return nil, err
	}
	if err := s.register(evermesh, map[string]handler{
		"ListProxies": s.listProxies, "DescribeRollout": s.describeRollout, "Explain": s.explain, "Plan": s.plan,
		"DrainProxy": s.drainProxy, "ResumeProxy": s.resumeProxy,
		"DescribeMeshSettings": s.describeSettings, "UpdateMeshSettings": s.updateSettings,
	}); err != nil {
		return nil, err
	}
	return s, nil
}

// verbs maps every operation of App Mesh to a verb and a kind.
func (s *Server) verbs() map[string]handler {
	out := map[string]handler{
		"TagResource":         s.tag,
		"UntagResource":       s.untag,
		"ListTagsForResource": s.listTags,
	}
	for _, row := range api.Kinds() {
		out["Create"+row.Type] = s.create(row)
		out["Describe"+row.Type] = s.describe(row)
		out["Update"+row.Type] = s.update(row)
		out["Delete"+row.Type] = s.delete(row)
		out["List"+row.Plural] = s.list(row)
	}
	return out
}

// register adds a model's operations to the mux. An operation without a
// handler, or a handler without an operation, is a fault of the program.
func (s *Server) register(m *model.Model, handlers map[string]handler) error {
	for name, op := range m.Operations {
		h, ok := handlers[name]
		if !ok {
			return fmt.Errorf("operation %s has no handler", name)
		}
		s.mux.Handle(op.HTTP.Method+" "+op.HTTP.RequestURI, &endpoint{
			server: s, binder: newBinder(m, op), handler: h, source: m.Metadata.EndpointPrefix + ".amazonaws.com",
			reads: op.HTTP.Method == http.MethodGet || name == "Plan",
		})
	}
	if len(handlers) != len(m.Operations) {
		return fmt.Errorf("%d handlers for the %d operations of %s", len(handlers), len(m.Operations), m.Metadata.ServiceID)
	}
	return nil
}

// endpoint is one operation on the mux.
type endpoint struct {
	server  *Server
	binder  *binder
	handler handler
	source  string // of records
	reads   bool   // it changes nothing
}

// answer runs the operation; the request is authenticated already.
func (e *endpoint) answer(ctx context.Context, r *http.Request, body []byte, c *call) (any, error) {
	doc, err := e.binder.bind(r, body)
	if err != nil {
		return nil, err
	}
	c.doc, c.action, c.source, c.reads = doc, e.binder.action, e.source, e.reads
	result, err := e.handler(ctx, c)
	if err == nil && !c.authorized {
		return nil, fmt.Errorf("operation %s asked no policy", c.op) // a fault of the program
	}
	return result, err
}

// ServeHTTP satisfies http.Handler for the mux; requests come through
// Server.ServeHTTP, which calls answer instead.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "not reachable", http.StatusInternalServerError)
}
