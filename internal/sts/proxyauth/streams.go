// Package proxyauth says who opens a proxy's stream. Three proofs count: a signature
// with an access key, as App Mesh's agent makes it; the token of a Kubernetes service
// account; a client certificate with a SPIFFE id. The latter two are mapped to a role,
// and the principal is a session of that, so that the same policies decide for all.
//
// Start with Streams.Authenticate.
package proxyauth

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksauthapi"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/podidentity"
)

// Metadata that a proxy sends beside its proof.
const (
	// RoleHeader is the ARN of the role that it wants to be. A token without it gets
	// the role of its pod identity association.
	RoleHeader = "x-evermesh-role-arn"
	// AccountHeader is the account whose association counts, where more than one has
	// one for the service account.
	AccountHeader = "x-evermesh-account"
)

// Streams authenticates streams.
type Streams struct {
	// Verify verifies a signature; auth.Verifier.Verify is one.
	Verify func(ctx context.Context, r auth.Request) (auth.Principal, error)
	Roles  *sts.Server
	Pods   *podidentity.Server
}

// Authenticate is who opens the stream of a method with that metadata. Its refusals are
// *api.Error with codes that package ads knows. A signature or a token that is there
// counts alone: who shows a bad one is refused, whatever certificate it has.
func (s *Streams) Authenticate(ctx context.Context, method string, md metadata.MD) (auth.Principal, error) {
	from, _ := peer.FromContext(ctx)
	return s.authenticate(ctx, from, md, auth.StreamRequest(method, md))
}

// AuthenticateRequest is who makes a request of HTTP/1.1 on the port of the streams, by
// the proofs that streams have; from is the connection's other end.
func (s *Streams) AuthenticateRequest(r *http.Request, body []byte, from *peer.Peer) (auth.Principal, error) {
	md := metadata.MD{}
	for _, name := range []string{"authorization", RoleHeader, AccountHeader, "user-agent"} {
		if values := r.Header.Values(name); len(values) > 0 {
			md[name] = values
		}
	}
	return s.authenticate(r.Context(), from, md, auth.Request{
		Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body,
	})
}

// authenticate tries the proofs; signed is what a signature would be of.
func (s *Streams) authenticate(ctx context.Context, from *peer.Peer, md metadata.MD, signed auth.Request) (auth.Principal, error) {
	authorization := md.Get("authorization")
	role := one(md, RoleHeader)
	if len(authorization) == 1 {
		if scheme, token, ok := strings.Cut(authorization[0], " "); ok && strings.EqualFold(scheme, "bearer") {
			p, err := s.token(ctx, strings.TrimSpace(token), role, one(md, AccountHeader), keysOf(from, md))
			return p, known(err)
		}
	}
	if len(authorization) == 0 && role != "" {
		if id, leaf := spiffeID(from); id != nil {
			p, err := s.Roles.AssumeCertificate(ctx, id, leaf.NotAfter, role, keysOf(from, md))
			return p, known(err)
		}
	}
	return s.Verify(ctx, signed)
}

func (s *Streams) token(ctx context.Context, raw, role, account string, keys map[string][]string) (auth.Principal, error) {
	if role == "" {
		return s.Pods.Principal(ctx, raw, account, keys)
	}
	return s.Roles.AssumeToken(ctx, raw, role, keys)
}

// one is a header that is there once; empty for none.
func one(md metadata.MD, name string) string {
	if values := md.Get(name); len(values) == 1 {
		return strings.TrimSpace(values[0])
	}
	return ""
}

// keysOf are the condition keys of a stream's request.
func keysOf(from *peer.Peer, md metadata.MD) map[string][]string {
	keys := map[string][]string{"aws:securetransport": {"false"}}
	if agent := one(md, "user-agent"); agent != "" {
		keys["aws:useragent"] = []string{agent}
	}
	if from == nil {
		return keys
	}
	if _, ok := from.AuthInfo.(credentials.TLSInfo); ok {
		keys["aws:securetransport"] = []string{"true"}
	}
	if from.Addr != nil {
		if host, _, err := net.SplitHostPort(from.Addr.String()); err == nil {
			keys["aws:sourceip"] = []string{host}
		}
	}
	return keys
}

// spiffeID is the SPIFFE id of a verified client certificate, and the certificate; nil
// for none. As the standard says, a certificate with more than one URI has none.
func spiffeID(from *peer.Peer) (*url.URL, *x509.Certificate) {
	if from == nil {
		return nil, nil
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, nil
	}
	leaf := info.State.VerifiedChains[0][0]
	if leaf.IsCA || len(leaf.URIs) != 1 {
		return nil, nil
	}
	id := leaf.URIs[0]
	if id.Scheme != "spiffe" || id.Host == "" || id.Host != id.Hostname() || id.User != nil || id.RawQuery != "" || id.Fragment != "" || len(id.Path) < 2 || id.Host != strings.ToLower(id.Host) {
		return nil, nil
	}
	for _, segment := range strings.Split(id.Path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return nil, nil
		}
	}
	return id, leaf
}

// known is a refusal of STS or of EKS by a code that streams have.
func known(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	code := api.CodeUnrecognizedClient
	switch e.Code {
	case api.CodeAccessDenied, api.CodeExpiredToken:
		code = e.Code
	case eksauthapi.CodeResourceNotFound:
		code = api.CodeAccessDenied
	case eksauthapi.CodeServiceUnavailable, stsapi.CodeIDPCOmmunicationError:
		code = api.CodeServiceUnavailable
	}
	return api.Errorf(code, "%s", e.Message)
}
