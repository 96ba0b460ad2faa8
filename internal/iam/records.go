package iam

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/store"
)

// The records of an account, below account/<id>/. Names are unique without case, as
// with AWS, so the keys have them in lower case.
//
//	user/<name>, group/<name>, role/<name>   an identity
//	policy/<name>                            a customer managed policy, all versions
//	profile/<name>                           an instance profile
//	oidc/<host and path>                     an OIDC provider

// kind is which kind of identity a record is.
type kind string

const (
	userKind  kind = "user"
	groupKind kind = "group"
	roleKind  kind = "role"
)

// title is the kind in AWS's texts.
func (k kind) title() string { return strings.ToUpper(string(k[:1])) + string(k[1:]) }

// The other kinds of records.
const (
	policyRecord   = "policy"
	profileRecord  = "profile"
	providerRecord = "oidc"
	// deletionsRecord is of a service-linked role that was to be deleted.
	deletionsRecord = "linkedDeletions"
)

func recordTail(account, kind, name string) string {
	return store.AccountScope(account).Tail(kind, strings.ToLower(name))
}

// recordsTail is what the keys of all records of a kind begin with.
func recordsTail(account, kind string) string {
	return store.AccountScope(account).Tail(kind) + "/"
}

// identity is the body of a user, a group or a role.
type identity struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	ID       string    `json:"id"` // never used again
	Created  time.Time `json:"created"`
	Tags     []tag     `json:"tags,omitempty"`
	Attached []string  `json:"attached,omitempty"` // ARNs of managed policies
	Inline   []inline  `json:"inline,omitempty"`
	Boundary string    `json:"boundary,omitempty"` // ARN of a managed policy
	// Groups are a user's, by name in lower case.
	Groups []string `json:"groups,omitempty"`
	// What only roles have.
	Trust string `json:"trust,omitempty"`
	// Trusted are the unique ids of the users and roles that Trust names, by their ARNs,
	// as they were when it was written.
	Trusted     map[string]string `json:"trusted,omitempty"`
	Description *string           `json:"description,omitempty"`
	MaxSession  int64             `json:"maxSession,omitempty"` // seconds
	Service     string            `json:"service,omitempty"`    // whose service-linked role it is
}

type tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// inline is a policy that is part of an identity.
type inline struct {
	Name     string `json:"name"`
	Document string `json:"document"`
}

func identityType(k kind) store.Type {
	return store.Type{Name: string(k), Schema: 1, Members: []string{
		"name", "path", "id", "created", "tags", "attached", "inline", "boundary", "groups", "trust", "trusted", "description", "maxSession", "service",
	}}
}

// managed is the body of a customer managed policy.
type managed struct {
	Name        string    `json:"name"`
	Path        string    `json:"path"`
	ID          string    `json:"id"`
	Created     time.Time `json:"created"`
	Updated     time.Time `json:"updated"`
	Description *string   `json:"description,omitempty"`
	Tags        []tag     `json:"tags,omitempty"`
	Versions    []version `json:"versions"`
	Default     string    `json:"default"` // v1
	Next        int       `json:"next"`    // number of the version that is made next
}

type version struct {
	ID       string    `json:"id"` // v1
	Created  time.Time `json:"created"`
	Document string    `json:"document"`
}

func managedType() store.Type {
	return store.Type{Name: policyRecord, Schema: 1, Members: []string{
		"name", "path", "id", "created", "updated", "description", "tags", "versions", "default", "next",
	}}
}

// version finds a version of a policy by its id; the default for an empty one.
func (m *managed) version(id string) (version, bool) {
	if id == "" {
		id = m.Default
	}
	i := slices.IndexFunc(m.Versions, func(v version) bool { return v.ID == id })
	if i < 0 {
		return version{}, false
	}
	return m.Versions[i], true
}

// profile is the body of an instance profile.
type profile struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Tags    []tag     `json:"tags,omitempty"`
	Role    string    `json:"role,omitempty"` // name in lower case; empty for none
}

func profileType() store.Type {
	return store.Type{Name: profileRecord, Schema: 1, Members: []string{"name", "path", "id", "created", "tags", "role"}}
}

// provider is the body of an OIDC provider.
type provider struct {
	URL         string    `json:"url"` // without https://
	Clients     []string  `json:"clients,omitempty"`
	Thumbprints []string  `json:"thumbprints,omitempty"`
	Created     time.Time `json:"created"`
	Tags        []tag     `json:"tags,omitempty"`
	// Bound is when its cluster became another by a tag; zero for since Created.
	Bound time.Time `json:"bound,omitzero"`
}

func providerType() store.Type {
	return store.Type{Name: providerRecord, Schema: 1, Members: []string{"url", "clients", "thumbprints", "created", "tags", "bound"}}
}

// shelf is where records are read: a transaction, or the store as it is now.
type shelf interface {
	Record(tail string) *store.Record
	Records(tail string) []store.Record
}

// fresh is the shelf of a call that only reads. Its first error sticks.
type fresh struct {
	ctx   context.Context
	store *store.Store
	err   error
}

func (f *fresh) Records(tail string) []store.Record {
	if f.err != nil {
		return nil
	}
	list, _, err := f.store.Records(f.ctx, tail)
	if err != nil {
		f.err = err
	}
	return list
}

func (f *fresh) Record(tail string) *store.Record {
	for _, r := range f.Records(tail) {
		if r.Key == tail { // others begin with it
			return &r
		}
	}
	return nil
}

// read decodes the record at a tail; nil when there is none.
func read[Body any](s shelf, tail string) (*Body, error) {
	r := s.Record(tail)
	if r == nil {
		return nil, nil
	}
	return body[Body](*r)
}

func body[Body any](r store.Record) (*Body, error) {
	b := new(Body)
	if err := json.Unmarshal(r.Body, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return b, nil
}

// all decodes the records below a tail, in the order of their names.
func all[Body any](s shelf, tail string) ([]*Body, error) {
	var out []*Body
	for _, r := range s.Records(tail) {
		b, err := body[Body](r)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}
