package sdstest

import (
	"context"
	"net"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

// Server answers for secrets at a socket file: as an SDS server and as the
// secrets of ADS. A secret that it was not given is not answered for until it
// is.
type Server struct {
	secrets *cache.LinearCache
}

const secretURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Serve starts a server at the socket file; it ends with the test.
func Serve(t testing.TB, path string) *Server {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{secrets: cache.NewLinearCache(secretURL)}
	ctx, cancel := context.WithCancel(context.Background())
	wire := server.NewServer(ctx, s.secrets, nil)
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, wire)
	secretv3.RegisterSecretDiscoveryServiceServer(g, wire)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener)
	}()
	t.Cleanup(func() {
		cancel()
		g.Stop()
		<-done
	})
	return s
}

// Put answers with a secret from now on, also to those who asked before.
func (s *Server) Put(t testing.TB, secret *tlsv3.Secret) {
	t.Helper()
	if err := s.secrets.UpdateResource(secret.GetName(), secret); err != nil {
		t.Fatal(err)
	}
}

// Asked says whether somebody asks for the secret.
func (s *Server) Asked(name string) bool { return s.secrets.NumWatches(name) > 0 }

// PutCertificate is Put of a certificate and key.
func (s *Server) PutCertificate(t testing.TB, name string, c Certificate) {
	t.Helper()
	s.Put(t, &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(c.Chain), PrivateKey: inline(c.Key),
	}}})
}

// PutTrust is Put of authorities.
func (s *Server) PutTrust(t testing.TB, name string, of ...*Authority) {
	t.Helper()
	var all []byte
	for _, a := range of {
		all = append(all, a.PEM...)
	}
	s.Put(t, &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(all)}}})
}

func inline(text []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
}
