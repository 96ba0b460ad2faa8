package auth

import (
	"context"
	"net/http"
	"time"
)

// Principal is who signed a request.
type Principal struct {
	Account     string // 12 digits
	ARN         string // arn:aws:iam::111122223333:root
	AccessKeyID string // AKIAIOSFODNN7EXAMPLE
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

// Keys finds the credential of an access key. found is false for a key that
// does not exist, or not any more; err is for a store that cannot say.
type Keys interface {
	Credential(ctx context.Context, accessKeyID string) (c Credential, found bool, err error)
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
