package proxyauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksauthapi"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
)

// connection is a peer with a client certificate that has these URIs.
func connection(t *testing.T, verified bool, uris ...string) *peer.Peer {
	t.Helper()
	leaf := &x509.Certificate{}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		leaf.URIs = append(leaf.URIs, u)
	}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	if verified {
		state.VerifiedChains = [][]*x509.Certificate{{leaf}}
	}
	return &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234}, AuthInfo: credentials.TLSInfo{State: state}}
}

func TestSPIFFEIDs(t *testing.T) {
	t.Parallel()
	const good = "spiffe://prod.example/ns/shop/sa/orders"
	if id, _ := spiffeID(connection(t, true, good)); id == nil || id.String() != good {
		t.Errorf("got %v, want %s", id, good)
	}
	for name, p := range map[string]*peer.Peer{
		"no peer":                   nil,
		"plaintext":                 {},
		"not verified":              connection(t, false, good),
		"no URI":                    connection(t, true),
		"two ids":                   connection(t, true, good, "spiffe://prod.example/ns/shop/sa/payments"),
		"another scheme":            connection(t, true, "https://prod.example/ns/shop"),
		"no workload":               connection(t, true, "spiffe://prod.example"),
		"the trust domain itself":   connection(t, true, "spiffe://prod.example/"),
		"no trust domain":           connection(t, true, "spiffe:///ns/shop"),
		"a port":                    connection(t, true, "spiffe://prod.example:443/ns/shop"),
		"a user":                    connection(t, true, "spiffe://root@prod.example/ns/shop"),
		"a query":                   connection(t, true, good+"?x=1"),
		"a fragment":                connection(t, true, good+"#x"),
		"segments that lead away":   connection(t, true, "spiffe://prod.example/ns/shop/../admin"),
		"an encoded way out":        connection(t, true, "spiffe://prod.example/ns/%2e%2e/admin"),
		"an empty segment":          connection(t, true, "spiffe://prod.example/ns//admin"),
		"a trust domain in capital": connection(t, true, "spiffe://PROD.example/ns/shop"),
	} {
		if id, _ := spiffeID(p); id != nil {
			t.Errorf("%s: got %v", name, id)
		}
	}
	authority := connection(t, true, good)
	authority.AuthInfo.(credentials.TLSInfo).State.VerifiedChains[0][0].IsCA = true
	if id, _ := spiffeID(authority); id != nil {
		t.Errorf("the certificate of an authority: got %v", id)
	}
}

// What is no token and no certificate goes to the verifier of signatures, with all its
// headers; nobody gets by it with odd ones.
func TestOthersAreVerified(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/r"
	for name, c := range map[string]struct {
		md   metadata.MD
		peer *peer.Peer
	}{
		"nothing":                            {metadata.MD{}, nil},
		"a signature":                        {metadata.Pairs("authorization", "AWS4-HMAC-SHA256 Credential=x"), nil},
		"a signature beside a certificate":   {metadata.Pairs("authorization", "AWS4-HMAC-SHA256 Credential=x", RoleHeader, role), connection(t, true, "spiffe://d/w")},
		"two tokens":                         {metadata.Pairs("authorization", "Bearer a.b.c", "authorization", "Bearer d.e.f"), nil},
		"a token without its word":           {metadata.Pairs("authorization", "a.b.c"), nil},
		"a certificate without a role":       {metadata.MD{}, connection(t, true, "spiffe://d/w")},
		"a certificate with two roles":       {metadata.Pairs(RoleHeader, role, RoleHeader, role+"2"), connection(t, true, "spiffe://d/w")},
		"a role without a certificate":       {metadata.Pairs(RoleHeader, role), connection(t, true)},
		"a certificate that is not verified": {metadata.Pairs(RoleHeader, role), connection(t, false, "spiffe://d/w")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			verified := errors.New("asked the verifier")
			s := &Streams{Verify: func(_ context.Context, r auth.Request) (auth.Principal, error) {
				if r.RequestURI != "/m" || len(metadata.MD(r.Header).Get("authorization")) != len(c.md.Get("authorization")) {
					t.Errorf("it was asked about %+v", r)
				}
				return auth.Principal{}, verified
			}}
			ctx := t.Context()
			if c.peer != nil {
				ctx = peer.NewContext(ctx, c.peer)
			}
			if p, err := s.Authenticate(ctx, "/m", c.md); !errors.Is(err, verified) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

// Streams know few codes; each refusal has one of them.
func TestRefusalsAreKnown(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		api.CodeAccessDenied:              api.CodeAccessDenied,
		stsapi.CodeExpiredToken:           api.CodeExpiredToken,
		stsapi.CodeInvalidIdentityToken:   api.CodeUnrecognizedClient,
		eksauthapi.CodeInvalidToken:       api.CodeUnrecognizedClient,
		eksauthapi.CodeInvalidRequest:     api.CodeUnrecognizedClient,
		"ValidationException":             api.CodeUnrecognizedClient,
		eksauthapi.CodeResourceNotFound:   api.CodeAccessDenied,
		stsapi.CodeIDPCOmmunicationError:  api.CodeServiceUnavailable,
		eksauthapi.CodeServiceUnavailable: api.CodeServiceUnavailable,
	} {
		var e *api.Error
		if err := known(api.Errorf(code, "why")); !errors.As(err, &e) || e.Code != want || e.Message != "why" {
			t.Errorf("%s: got %v, want %s", code, err, want)
		}
	}
	other := errors.New("etcd is away")
	if err := known(other); !errors.Is(err, other) {
		t.Errorf("got %v", err)
	}
}
