// Package service is what an AWS service is to this program: a model of its
// operations, and a function for each.
//
// A package such as iam offers a Service; package rest speaks its protocol: it
// verifies the signature, makes one document of the request, checks it against the
// model, runs the Operation and renders what it returns. So a service knows neither
// HTTP nor XML, and what is true of all of them is said once.
//
// Start with Service and Op, then Call, which is one request. Page (page.go) cuts lists
// to pages, and RequestTags and TagKeys (tags.go) are what policies see of tags.
package service

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/policy"
)

// Service is one AWS service: its model, and how each of its operations is done.
type Service struct {
	Model *model.Model
	// Prefix is that of actions in policies: iam, acm-pca, servicediscovery.
	Prefix     string
	Operations map[string]Operation
	// Invalid is the code of the service for an input that breaks the model, where
	// it has one of its own: InvalidInput. Empty is the protocol's.
	Invalid string
}

// New joins a model of package model with the operations of it. One that is missing
// on either side is a fault of the program.
func New(name, prefix string, operations map[string]Operation) (*Service, error) {
	m, err := model.Named(name)
	if err != nil {
		return nil, err
	}
	for op := range m.Operations {
		if _, ok := operations[op]; !ok {
			return nil, fmt.Errorf("operation %s of %s is not offered", op, name)
		}
	}
	for op := range operations {
		if _, ok := m.Operations[op]; !ok {
			return nil, fmt.Errorf("%s has no operation %s", name, op)
		}
	}
	return &Service{Model: m, Prefix: prefix, Operations: operations}, nil
}

// SigningName is what requests to the service are signed for.
func (s *Service) SigningName() string {
	if name := s.Model.Metadata.SigningName; name != "" {
		return name
	}
	return s.Model.Metadata.EndpointPrefix
}

// Operation does one operation of a service.
type Operation struct {
	// Run returns what is answered, a pointer to the output's type, or an error;
	// an *api.Error is one of the service's own.
	Run func(ctx context.Context, c *Call) (any, error)
	// Unsigned says that anybody may call it, as with AssumeRoleWithWebIdentity:
	// the call's Principal may be the zero value.
	Unsigned bool
	// Reads says that it changes nothing (readOnly in an event).
	Reads bool
}

// Op makes an Operation of a function on the types that are generated from the
// model.
func Op[In, Out any](run func(ctx context.Context, c *Call, in *In) (*Out, error)) Operation {
	return Operation{Run: func(ctx context.Context, c *Call) (any, error) {
		in := new(In)
		if err := c.decode(in); err != nil {
			return nil, err
		}
		out, err := run(ctx, c, in)
		if err != nil {
			return nil, err // not a typed nil beside it
		}
		return out, nil
	}}
}

// Read is Op for an operation that changes nothing.
func Read[In, Out any](run func(ctx context.Context, c *Call, in *In) (*Out, error)) Operation {
	op := Op(run)
	op.Reads = true
	return op
}

// Call is one request on its way to its operation.
type Call struct {
	ID        string // of the request
	Service   *Service
	Operation string
	Principal auth.Principal
	At        time.Time
	// Input is the request's document as the model checked it: members by their
	// names in the model, numbers as json.Number, times as seconds, bytes in base64.
	Input map[string]any
	// Keys are the condition keys that the request has by itself, by lower-case
	// name: aws:sourceip, aws:securetransport, aws:useragent and so on.
	Keys map[string][]string
	// Authorizer answers Allow.
	Authorizer auth.Authorizer
	// Event makes the event that is committed with a write that answers out; nil
	// makes none.
	Event func(out any) []byte

	committed bool
	asked     []string
}

// decode reads the document into the input's type.
func (c *Call) decode(in any) error {
	text, err := json.Marshal(c.Input)
	if err != nil {
		return fmt.Errorf("encode input: %w", err)
	}
	if err := json.Unmarshal(text, in); err != nil {
		return fmt.Errorf("decode input: %w", err)
	}
	return nil
}

// Allow says whether the caller may do the call's action on the resource, an ARN or
// "*": nil, or the refusal. keys are condition keys that the resource or the input
// has, such as aws:requesttag/team, in whatever case; they stand before the request's
// own.
func (c *Call) Allow(ctx context.Context, resource string, keys map[string][]string) error {
	return c.AllowAction(ctx, c.Service.Prefix+":"+c.Operation, resource, keys)
}

// AllowAction is Allow for an action that is not named like the operation.
func (c *Call) AllowAction(ctx context.Context, action, resource string, keys map[string][]string) error {
	all := c.Keys
	if len(keys) > 0 {
		all = maps.Clone(c.Keys)
		if all == nil {
			all = map[string][]string{}
		}
		maps.Copy(all, named(keys))
	}
	if resource != "*" {
		c.About(resource)
	}
	return c.Authorizer.Authorize(ctx, auth.Question{Principal: c.Principal, Action: action, Resource: resource, Keys: all})
}

// named are condition keys under the names that policies compare. Tags that differ in
// case alone have one condition key, with the values of all.
func named(keys map[string][]string) map[string][]string {
	out := make(map[string][]string, len(keys))
	for key, values := range keys {
		name := policy.KeyName(key)
		out[name] = append(out[name], values...)
	}
	return out
}

// About says that the call is about a resource that Allow is not asked about, such as
// a role whose trust policy decides.
func (c *Call) About(resource string) {
	if !slices.Contains(c.asked, resource) {
		c.asked = append(c.asked, resource)
	}
}

// Resources are the ARNs that Allow was asked about, or About told: those that the
// call is about.
func (c *Call) Resources() []string { return c.asked }

// Outbox is where a transaction keeps what is committed with it; *store.Tx is one.
type Outbox interface {
	Outbox(event []byte)
}

// Commit puts the call's event into the transaction that does its work; out is what
// will be answered. Every operation that writes calls it in its transaction (D2): the
// event is then there exactly if the write is.
func (c *Call) Commit(tx Outbox, out any) {
	c.committed = true
	if c.Event != nil {
		tx.Outbox(c.Event(out))
	}
}

// Committed says whether a transaction has carried the call's event.
func (c *Call) Committed() bool { return c.committed }

// Record is what is kept of one call.
type Record struct {
	ID        string // of the request
	Source    string // iam.amazonaws.com
	Operation string
	Principal auth.Principal
	At        time.Time
	SourceIP  string
	UserAgent string
	ReadOnly  bool
	// Request and Response are documents without what the model calls sensitive;
	// Response is nil for a refusal and for what only reads.
	Request, Response any
	// Resources are the ARNs that it was about, as far as they are known.
	Resources []string
	// Code and Message are the refusal's; empty when there was none.
	Code, Message string
}

// Auditor keeps Records (D2).
type Auditor interface {
	// Event is the record as it is committed with a write.
	Event(r Record) []byte
	// Append keeps a record that no transaction carries: of a read, or of a refusal.
	// When it returns nil the record lasts; else the call must fail.
	Append(ctx context.Context, r Record) error
}
