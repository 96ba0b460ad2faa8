package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/auth"
)

// controlPlane is an ADS server whose answers the test writes.
type controlPlane struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	addr   string
	server *grpc.Server
	wg     sync.WaitGroup

	// The streams' handlers. The default ones answer each request with its own version and names.
	whole func(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error
	delta func(discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error

	mu      sync.Mutex
	streams int
	peers   map[string]bool
}

func (c *controlPlane) opened(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams++
	if p, ok := peer.FromContext(ctx); ok {
		c.peers[p.Addr.String()] = true
	}
}

func (c *controlPlane) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams
}

func (c *controlPlane) StreamAggregatedResources(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	c.opened(s.Context())
	return c.whole(s)
}

func (c *controlPlane) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	c.opened(s.Context())
	return c.delta(s)
}

func echoWhole(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: r.TypeUrl, VersionInfo: r.VersionInfo, Nonce: r.ResponseNonce}); err != nil {
			return err
		}
	}
}

func echoDelta(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: r.ResponseNonce, RemovedResources: r.ResourceNamesSubscribe}); err != nil {
			return err
		}
	}
}

// newControlPlane listens on address: "" for any port of the loopback, or the path of a socket.
func newControlPlane(t *testing.T, address string, options ...grpc.ServerOption) *controlPlane {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen(choose(address[0] == '/', "unix", "tcp"), address)
	if err != nil {
		t.Fatal(err)
	}
	c := &controlPlane{addr: l.Addr().String(), whole: echoWhole, delta: echoDelta, peers: map[string]bool{}}
	c.server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}, options...)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(c.server, c)
	c.wg.Go(func() { _ = c.server.Serve(l) })
	t.Cleanup(c.stop)
	return c
}

// stop ends the server without a word to its clients.
func (c *controlPlane) stop() {
	c.server.Stop()
	c.wg.Wait()
}

// newTestRelay is a relay as Run makes it, from the variables' lines.
func newTestRelay(t *testing.T, lines ...string) (*Relay, discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	s, err := Parse(environment(append([]string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1"}, lines...)...), Flags{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	log, _ := newTestLog(t)
	s.SocketPath = filepath.Join(shortDir(t), "xds.sock")
	r, err := startRelay(t.Context(), s, Program{Version: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r, dialRelay(t, s.SocketPath)
}

// dialRelay connects as Envoy does.
func dialRelay(t *testing.T, socket string) discoveryv3.AggregatedDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
}

// unsigned makes the search for credentials find none, at once.
func unsigned(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"), "AWS_CONFIG_FILE": filepath.Join(dir, "config"),
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_ROLE_ARN": "",
	} {
		t.Setenv(name, value)
	}
}

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

func signed(t *testing.T) {
	t.Helper()
	unsigned(t)
	t.Setenv("AWS_ACCESS_KEY_ID", keyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
}

// keys are the only credential that verifying knows.
type keys struct{}

func (keys) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	return auth.Credential{Secret: secret, Principal: auth.Principal{Account: "111122223333"}}, id == keyID, nil
}

// verifying lets only streams pass that are signed, with the words of the real control plane's codes.
func verifying() grpc.ServerOption {
	v := auth.NewVerifier(keys{}, "us-east-1", []string{"appmesh"}, time.Now)
	return grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		p, err := v.Verify(s.Context(), auth.StreamRequest(info.FullMethod, md))
		if err != nil || p.Account != "111122223333" {
			return status.Errorf(codes.Unauthenticated, "%v", err)
		}
		return next(srv, s)
	})
}

// certificate makes a server's certificate for names and a file with the CA that signed it.
func certificate(t *testing.T, names []string, ips ...net.IP) (option grpc.ServerOption, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: names, IPAddresses: ips, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o644); err != nil {
		t.Fatal(err)
	}
	return grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})), caFile
}

func verify(ctx context.Context, method string, md metadata.MD) error {
	_, err := auth.NewVerifier(keys{}, "us-east-1", []string{"appmesh"}, time.Now).Verify(ctx, auth.StreamRequest(method, md))
	return err
}
