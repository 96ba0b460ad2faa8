package auth

import (
	"context"
	"net/http"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// PrincipalType is what kind of principal it is, in the words of aws:PrincipalType
// (IAM-038).
type PrincipalType string

// The types of principals.
const (
	Root          PrincipalType = "Account"
	User          PrincipalType = "User"
	AssumedRole   PrincipalType = "AssumedRole"
	FederatedUser PrincipalType = "FederatedUser"
)

// Principal is who signed a request.
type Principal struct {
	Account     string // 12 digits
	ARN         string // arn:aws:iam::111122223333:root
	AccessKeyID string // AKIAIOSFODNN7EXAMPLE
	Type        PrincipalType
	// ID is never used again: the account of a root, AIDA… of a user,
	// AROA…:session of an assumed role.
	ID string
	// Session is that of temporary credentials; nil for a key that lasts.
	Session *Session
}

// Session is what temporary credentials carry beside the principal (IAM-014).
type Session struct {
	// Issuer is the ARN of the role that was assumed, or of the user that asked;
	// IssuerID is its unique id: the session ends with it, also when another one has
	// its name.
	Issuer, IssuerID string
	Name             string // of the session
	// Policies narrow what the issuer may do; JSON, empty for none.
	Policies        []string
	Issued, Expires time.Time
	// Provider is the identity provider that vouched for a federated session.
	Provider       string
	Subject        string // and for whom
	SourceIdentity string
	Tags           map[string]string
	// Transitive are keys of Tags that a session has which is made from this one.
	Transitive []string
	MFA        bool
}

// Caller is a principal with the condition keys of the connection that it asks on, by
// lower-case name, as they are now: aws:sourceip, aws:currenttime.
type Caller struct {
	Principal
	Keys map[string][]string
}

// Question is whether a principal may do something.
type Question struct {
	Principal Principal
	Action    string // appmesh:CreateRoute
	// Resource is an ARN, of something that exists or is to; "*" for an action that
	// is about none.
	Resource string
	// Shared says that the resource's owner lets the principal's account do that, by
	// a share. What its own policies say counts as well (SHARE-014).
	Shared bool
	// Keys are condition keys by lower-case name: aws:sourceip. What the principal
	// says by itself, such as aws:principalarn, is not in it.
	Keys map[string][]string
}

// Authorizer answers Questions: nil, or an *api.Error with AWS's sentence (IAM-016).
type Authorizer interface {
	Authorize(ctx context.Context, q Question) error
}

// Roots is an Authorizer that knows accounts and nothing else: see Allow. A resource
// that is no ARN is nobody's, as for policies.
type Roots struct{}

// Authorize satisfies Authorizer.
func (Roots) Authorize(_ context.Context, q Question) error {
	if _, named := api.ParseResourceName(q.Resource); q.Shared || !named {
		return nil
	}
	return Allow(q.Principal, q.Action, q.Resource)
}

// Credential is what the server knows about one access key.
type Credential struct {
	Secret    Secret
	Principal Principal
	// SessionToken must come with every request signed by a temporary key
	// (IAM-014); empty for a key that lasts.
	SessionToken Secret
	// Expires is when a temporary key ends; zero for a key that lasts.
	Expires time.Time
}

// Keys finds the credential of an access key. sessionToken is what came with the
// request, empty for none: temporary credentials may be known by it alone. found is
// false for a key that does not exist, or not any more; err is for a store that
// cannot say.
type Keys interface {
	Credential(ctx context.Context, accessKeyID, sessionToken string) (c Credential, found bool, err error)
}

// Request is what of a request is signed, as it came over the wire: RequestURI
// undecoded, Header in any letter case, Body whole. NewRequest and StreamRequest
// make one.
type Request struct {
	Method     string
	RequestURI string // path and query as sent
	Host       string // the Host header, or :authority
	Header     http.Header
	Body       []byte
}

// NewRequest is the Request of an HTTP request whose body was read. Call it
// before a ServeMux cleans the path.
func NewRequest(r *http.Request, body []byte) Request {
	return Request{Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body}
}

// StreamRequest is the Request of a gRPC call: its full method, such as
// /envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources,
// and its incoming metadata. Messages of a stream are not signed: the payload's
// hash is UNSIGNED-PAYLOAD or that of nothing.
func StreamRequest(fullMethod string, metadata map[string][]string) Request {
	r := Request{Method: http.MethodPost, RequestURI: fullMethod, Header: metadata}
	if authority := metadata[":authority"]; len(authority) == 1 {
		r.Host = authority[0]
	}
	return r
}
