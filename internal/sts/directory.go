package sts

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
)

// Role is a role, as far as sessions of it go.
type Role struct {
	Account string
	ARN     string // with its path
	Name    string
	ID      string // AROA…
	Trust   *policy.Document
	// MaxSession bounds sessions that are not chained.
	MaxSession time.Duration
}

// Provider is an OIDC provider that an account has registered.
type Provider struct {
	ARN       string
	Issuer    string   // without https://, in its own case
	Audiences []string // its client ids
	// Cluster is the Kubernetes cluster whose provider it is; empty for none. A cluster
	// has one in an account.
	Cluster string
	// Created is when the account registered it, or said by a tag later whose cluster it
	// is: the first that did has its tokens where none is named.
	Created time.Time
}

// Directory is what is known of accounts.
type Directory interface {
	// Role finds a role by its ARN.
	Role(ctx context.Context, arn string) (r Role, found bool, err error)
	// Provider finds an account's provider by its issuer without https://.
	Provider(ctx context.Context, account, issuer string) (p Provider, found bool, err error)
	// Cluster finds a provider of an account by the cluster that it is bound to.
	Cluster(ctx context.Context, account, cluster string) (p Provider, found bool, err error)
	// Accounts are those that have registered the issuer, in order.
	Accounts(ctx context.Context, issuer string) ([]string, error)
	// Policy is the text of a managed policy, in its default version.
	Policy(ctx context.Context, arn string) (text string, found bool, err error)
	// Current is the unique id that the user, role or root with that ARN has now; ok is
	// false when there is none. It is asked for each request of a session, and answers
	// from memory.
	Current(arn string) (id string, ok bool)
	// Fresh returns when what it says of the accounts is at least as new as their records
	// were when it was called, and refuses as a ServiceUnavailableException when it
	// cannot be: what a session is made by outlives what is asked here.
	Fresh(ctx context.Context, accounts ...string) error
	// Decide says what the policies of the question's principal and the trust policy
	// of the role that it is about say together.
	Decide(ctx context.Context, q auth.Question, trust *policy.Document) (policy.Decision, error)
}

// Box seals texts that others keep; *seal.Box is one. An *api.Error says that it cannot
// now; any other of OpenText that the text was not sealed by it.
type Box interface {
	SealText(owner string, text []byte) (string, error)
	OpenText(owner, text string) ([]byte, error)
}
