// Package secrets is where the secrets come from that bundles only name (D9):
// certificates and authorities of proxies, by the names of envoy.SecretName.
//
// Start with Source.Secret, which answers the management service. Files lie
// beside the proxy: their answer holds paths, and Envoy reads them itself
// (message.go). What an ARN names comes from an Issuer, whose keys pass through
// here and are kept nowhere; Source.Run hears from it what is another, so that a
// renewed certificate is with its proxies within seconds (TLS-024).
package secrets

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Certificate is a certificate with its key.
type Certificate struct {
	// Chain is PEM, the certificate first, then those between it and its root.
	Chain []byte
	// Key is PEM, not encrypted.
	Key auth.Secret
}

// Issuer has the certificates and authorities that ARNs name. It decides who may
// have them: a refusal is an *api.Error and stands until something is another,
// after other errors it is asked again. It may be slow, and is called from many
// goroutines.
type Issuer interface {
	// Certificate is for those who may acm:ExportCertificate (TLS-008, EMS-056).
	Certificate(ctx context.Context, p auth.Caller, arn string) (Certificate, error)
	// Authority is the PEM of an authority's own certificate, for those who may
	// acm-pca:GetCertificateAuthorityCertificate (TLS-008).
	Authority(ctx context.Context, p auth.Caller, arn string) ([]byte, error)
	// Root is the PEM of the root that a certificate chains to, which is no secret:
	// clients without a policy of their own validate against it (TLS-016).
	Root(ctx context.Context, p auth.Caller, certificate string) ([]byte, error)
	// Follow calls changed with the ARN of each certificate or authority whose
	// answer is another from now on, or "" when it may be any, until ctx ends. A
	// certificate that now chains to another root is one, too. An error makes it
	// be called again.
	Follow(ctx context.Context, changed func(arn string)) error
}

// Identities are the certificates that a mesh gives to its nodes and gateways (D11).
// Whose stream it is was authorised, so nobody is asked again.
type Identities interface {
	// Identity is the certificate of a node or gateway.
	Identity(ctx context.Context, client api.Key) (Certificate, error)
	// Trust is the PEM of the authorities whose identities count in the client's mesh.
	Trust(ctx context.Context, client api.Key) ([]byte, error)
	// Follow is Issuer's, with meshes, <owner>/<mesh>, in place of ARNs.
	Follow(ctx context.Context, changed func(mesh string)) error
}

// Source answers for all secrets that a management service serves.
type Source struct {
	// Issuer may be nil: then nothing that an ARN names is served.
	Issuer Issuer
	// Identities may be nil: then no mesh gives any.
	Identities Identities
	// Renew is told, by a predicate on names, which secrets are others;
	// ads.Server.Renew is one.
	Renew func(concerns func(name string) bool)
	Log   *slog.Logger
}

// Secret is the encoded envoy.extensions.transport_sockets.tls.v3.Secret of that
// name for a proxy of the client, if the caller may have it; else an error whose text says why, which
// people read. For odd forms it is encoded in another way than for even ones that
// means the same, because Envoy does not look again at content that it had last.
func (s *Source) Secret(ctx context.Context, p auth.Caller, client api.Key, name string, form int) (auth.Secret, error) {
	n, err := envoy.ParseSecret(name)
	if err != nil {
		return "", api.Errorf(api.CodeBadRequest, "its name is none of a secret")
	}
	switch n.Kind {
	case envoy.FileCertificate:
		return encode(name, certificate(file(n.Path), file(n.Key), form))
	case envoy.FileTrust:
		return encode(name, trust(file(n.Path), form))
	case envoy.WorkloadSecret:
		return "", api.Errorf(api.CodeBadRequest, "it is of type sds, and the proxy has no SDS server: set APPMESH_SDS_SOCKET_PATH to the socket of one, and start the proxy again")
	case envoy.IdentityCertificate, envoy.IdentityTrust:
		return s.identity(ctx, client, name, n, form)
	}
	if s.Issuer == nil {
		return "", api.Errorf(api.CodeBadRequest, "no issuer serves certificates and authorities by ARN: use a certificate of type file or sds, and trust of type file or sds")
	}
	if err := named(n); err != nil {
		return "", err
	}
	switch n.Kind {
	case envoy.ACMCertificate:
		c, err := s.Issuer.Certificate(ctx, p, n.ARNs[0])
		if err != nil {
			return "", fmt.Errorf("export certificate: %w", err)
		}
		return encode(name, certificate(inline(c.Chain), inline([]byte(c.Key)), form))
	case envoy.ACMIssuer:
		root, err := s.Issuer.Root(ctx, p, n.ARNs[0])
		if err != nil {
			return "", fmt.Errorf("get root of certificate: %w", err)
		}
		return encode(name, trust(inline(root), form))
	}
	var all []byte
	for _, arn := range n.ARNs {
		authority, err := s.Issuer.Authority(ctx, p, arn)
		if err != nil {
			return "", fmt.Errorf("get certificate of authority %s: %w", arn, err)
		}
		all = append(all, authority...)
		if len(all) > 0 && all[len(all)-1] != '\n' {
			all = append(all, '\n')
		}
	}
	return encode(name, trust(inline(all), form))
}

// named refuses what is no ARN of a certificate or an authority: policies, which are
// asked about the rest, would refuse it in words that lead astray.
func named(n envoy.SecretName) error {
	service, what, kind := "acm", "certificate", "certificate/"
	if n.Kind == envoy.ACMTrust {
		service, what, kind = "acm-pca", "certificate authority", "certificate-authority/"
	}
	for _, arn := range n.ARNs {
		if at, ok := api.ParseResourceName(arn); !ok || at.Service != service || !strings.HasPrefix(at.Resource, kind) {
			return api.Errorf(api.CodeBadRequest, "%q is no ARN of a %s: name one in the spec", arn, what)
		}
	}
	return nil
}

// identity is the secret of an identity.
func (s *Source) identity(ctx context.Context, client api.Key, name string, n envoy.SecretName, form int) (auth.Secret, error) {
	if s.Identities == nil || n.Mesh != client.Owner+"/"+client.Mesh {
		return "", api.Errorf(api.CodeBadRequest, "the mesh gives no identities")
	}
	if n.Kind == envoy.IdentityTrust {
		authorities, err := s.Identities.Trust(ctx, client)
		if err != nil {
			return "", fmt.Errorf("get authorities of identities: %w", err)
		}
		return encode(name, trust(inline(authorities), form))
	}
	c, err := s.Identities.Identity(ctx, client)
	if err != nil {
		return "", fmt.Errorf("issue identity: %w", err)
	}
	return encode(name, certificate(inline(c.Chain), inline([]byte(c.Key)), form))
}

// followAgain is how long a source waits before it follows an issuer again.
const followAgain = time.Second

// Run passes on what the issuer and the identities say is another, until ctx ends.
// After a break anything may be another.
func (s *Source) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	if s.Identities != nil {
		all.Go(func() { s.follow(ctx, s.Identities.Follow, identityOf) })
	}
	if s.Issuer != nil {
		s.follow(ctx, s.Issuer.Follow, concerns)
	}
	<-ctx.Done()
	return nil
}

func (s *Source) follow(ctx context.Context, source func(context.Context, func(string)) error, concerns func(string) func(string) bool) {
	for ctx.Err() == nil {
		err := source(ctx, func(what string) { s.Renew(concerns(what)) })
		if ctx.Err() != nil {
			return
		}
		s.Log.Warn("issuer of certificates is not followed", "err", err)
		select {
		case <-time.After(followAgain):
		case <-ctx.Done():
			return
		}
		s.Renew(concerns(""))
	}
}

// identityOf says of names of secrets whether they are of the mesh's identities; of
// all meshes when it is empty.
func identityOf(mesh string) func(name string) bool {
	return func(name string) bool {
		n, err := envoy.ParseSecret(name)
		return err == nil && n.Mesh != "" && (mesh == "" || mesh == n.Mesh)
	}
}

// concerns says of names of secrets whether what is behind the ARN is part of
// them.
func concerns(arn string) func(name string) bool {
	return func(name string) bool {
		n, err := envoy.ParseSecret(name)
		return err == nil && len(n.ARNs) > 0 && (arn == "" || slices.Contains(n.ARNs, arn))
	}
}

func encode(name string, s *tlsv3.Secret) (auth.Secret, error) {
	s.Name = name
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode secret: %w", err)
	}
	return auth.Secret(b), nil
}
