package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

const (
	// maxMessage is what a configuration may be large; gRPC's own limit is 4 MiB.
	maxMessage = 64 << 20
	// connectWait bounds connecting to one address, with TLS.
	connectWait = 5 * time.Second
	// pingEvery and pingWait find out that the other side is gone without a word.
	pingEvery = 10 * time.Second
	pingWait  = 10 * time.Second
)

// newDialer makes connections that carry the mark, so that interception leaves them alone (also those to a name
// server); 0 is no mark.
func newDialer(mark uint32) *net.Dialer {
	d := &net.Dialer{Timeout: connectWait}
	if mark == 0 {
		return d
	}
	control := func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
		})
		if failed != nil {
			failed = fmt.Errorf("mark a socket: %w (EVERMESH_IGNORE_MARK needs the capability NET_ADMIN)", failed)
		}
		return errors.Join(err, failed)
	}
	d.Control = control
	d.Resolver = &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Timeout: connectWait, Control: control}).DialContext}
	return d
}

// connect makes a connection to one address of e. It is not open yet: opening the first stream does
// that, and the trail tells how far it came. It connects once: whether to try again is for upstreams to say.
func (u *upstreams) connect(e settings.Endpoint, address string, t *trail) (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if e.TLS {
		c, err := tlsConfig(u.caFile, u.signer.proof, u.bounds.Curves)
		if err != nil {
			return nil, err
		}
		secure = watched{credentials.NewTLS(c), t}
	}
	options := u.windows()
	options = append(options,
		grpc.WithTransportCredentials(secure),
		grpc.WithAuthority(e.Authority),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			if !t.begin() {
				return nil, errClosed
			}
			conn, err := u.dialer.DialContext(ctx, e.Network, address)
			t.dialedWith(err)
			return conn, err
		}),
		grpc.WithNoProxy(), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectWait}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: u.pingWait}),
		grpc.WithUserAgent(u.userAgent),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(maxMessage)))
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e, err)
	}
	return conn, nil
}

// tlsConfig is for one connection to e: files are read anew. The server's name follows from the authority, unless its
// SPIFFE id is asked for.
func tlsConfig(caFile string, proof settings.Proof, curves []tls.CurveID) (*tls.Config, error) {
	roots, err := readRoots(caFile)
	if err != nil {
		return nil, err
	}
	own, err := certificates(proof)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: own, CurvePreferences: curves}
	if proof.Server != "" {
		c.InsecureSkipVerify = true // the name only: the rest is verified here
		c.VerifyConnection = func(state tls.ConnectionState) error { return verifyID(state, roots, proof.Server) }
	}
	return c, nil
}

// verifyID verifies a chain as crypto/tls does, but that the certificate must have a SPIFFE id and not a name: an SVID
// has one id, and no name to go by.
func verifyID(state tls.ConnectionState, roots *x509.CertPool, id string) error {
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		return fmt.Errorf("certificate is valid for the ids %v, not %s", leaf.URIs, id)
	}
	return nil
}

// readRoots reads the CA at each connection, so that a new one needs no restart; nil is the system's.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read APPMESH_XDS_CA_FILE: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read APPMESH_XDS_CA_FILE: %s holds no certificate in PEM form", file)
	}
	return pool, nil
}
