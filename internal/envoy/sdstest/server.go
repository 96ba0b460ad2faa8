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
	"google.golang.org/protobuf/proto"
)

// Server answers for secrets at a socket file: as an SDS server and as an ADS
// server, which may have other resources too. A secret that it was not given is
// not answered for until it is.
type Server struct {
	types map[string]*cache.LinearCache // by type URL
}

const (
	prefix    = "type.googleapis.com/"
	secretURL = prefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Serve starts a server at the socket file; it ends with the test.
func Serve(t testing.TB, path string) *Server {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{types: map[string]*cache.LinearCache{}}
	all := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cache.Cache{},
	}
	for _, url := range []string{
		secretURL, prefix + "envoy.config.cluster.v3.Cluster", prefix + "envoy.config.endpoint.v3.ClusterLoadAssignment",
		prefix + "envoy.config.listener.v3.Listener", prefix + "envoy.config.route.v3.RouteConfiguration",
	} {
		s.types[url] = cache.NewLinearCache(url)
		all.Caches[url] = s.types[url]
	}
	ctx, cancel := context.WithCancel(context.Background())
	wire := server.NewServer(ctx, all, nil)
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, apart{wire})
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

// apart sends each secret in a response of its own: of a response with one that
// Envoy refuses, it takes none.
type apart struct{ server.Server }

// DeltaAggregatedResources implements the service.
func (a apart) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.Server.DeltaAggregatedResources(one{stream})
}

type one struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
}

// Send implements the stream.
func (s one) Send(all *discoveryv3.DeltaDiscoveryResponse) error {
	if all.GetTypeUrl() != secretURL || len(all.GetResources()) < 2 {
		return s.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Send(all)
	}
	for _, r := range all.GetResources() {
		if err := s.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Send(&discoveryv3.DeltaDiscoveryResponse{
			SystemVersionInfo: all.GetSystemVersionInfo(), TypeUrl: all.GetTypeUrl(), Nonce: all.GetNonce(), Resources: []*discoveryv3.Resource{r},
		}); err != nil {
			return err
		}
	}
	return nil
}

// Put answers with a secret from now on, also to those who asked before.
func (s *Server) Put(t testing.TB, secret *tlsv3.Secret) {
	t.Helper()
	s.PutResource(t, secret.GetName(), secret)
}

// PutResource answers with a resource of any type from now on.
func (s *Server) PutResource(t testing.TB, name string, m proto.Message) {
	t.Helper()
	of := s.types[prefix+string(m.ProtoReflect().Descriptor().FullName())]
	if of == nil {
		t.Fatalf("%s is no resource", m.ProtoReflect().Descriptor().FullName())
	}
	if err := of.UpdateResource(name, m); err != nil {
		t.Fatal(err)
	}
}

// Asked says whether somebody asks for the secret.
func (s *Server) Asked(name string) bool { return s.types[secretURL].NumWatches(name) > 0 }

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
