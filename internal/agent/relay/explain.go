package relay

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// trail is how far a connection came: gRPC tells only a text.
type trail struct {
	mu        sync.Mutex
	begun     bool
	dialed    bool
	dialError error
	secured   bool
	tlsError  error
}

// begin says whether this is the first connection.
func (t *trail) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.begun
	t.begun = true
	return first
}

// errClosed is what gRPC, which connects again without a pause after a connection that worked, gets for that.
var errClosed = errors.New("the connection was closed before a stream was open")

func (t *trail) dialedWith(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dialed, t.dialError = err == nil, err
}

func (t *trail) securedWith(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secured, t.tlsError = err == nil, err
}

// watched notes on a trail what came of TLS.
type watched struct {
	credentials.TransportCredentials
	trail *trail
}

func (w watched) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, conn)
	w.trail.securedWith(err)
	return out, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.trail}
}

// explain says which step failed when a stream could not be opened at an address.
func (u *upstreams) explain(e settings.Endpoint, address string, t *trail, err error) *Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &Failure{Endpoint: e.String(), Address: address, Reason: reason([]byte(status.Convert(err).Message()))}
	silent := errors.Is(err, errLate)
	switch {
	case t.dialError != nil || !t.dialed:
		f.Step = StepTCP
		if t.dialError != nil && !silent {
			f.Reason = reason([]byte(t.dialError.Error()))
		}
		u.adviseTCP(e, f, t.dialError)
	case e.TLS && !t.secured:
		f.Step = StepTLS
		if t.tlsError != nil && !silent {
			f.Reason = reason([]byte(t.tlsError.Error()))
		}
		if silent { // what TLS says of it is that it was cut short
			u.adviseTLS(e, f, nil)
		} else {
			u.adviseTLS(e, f, t.tlsError)
		}
	default:
		f.Step = StepXDS
		f.Do = "APPMESH_XDS_ENDPOINT must be the xDS port of evermeshd (7071), over " + map[bool]string{true: "TLS", false: "plaintext"}[e.TLS] + " as evermeshd has it"
		f.Tried = "HTTP/2"
		if !e.TLS && e.Network == "tcp" {
			f.Do += "; https:// if it has TLS"
		}
	}
	switch {
	case e.Network != "tcp":
	case t.dialed:
		f.suspect = taken
	case errors.Is(t.dialError, syscall.ECONNREFUSED):
		f.suspect = refused
	}
	return f
}

// suspect looks whether interception takes the agent's connections to where f is from, and returns f or what is known
// better.
func (u *upstreams) suspect(ctx context.Context, e settings.Endpoint, f *Failure) *Failure {
	words := u.capture.look(ctx, u.dialer, f.Address, f.suspect)
	if words == "" {
		return f
	}
	better := *f
	better.Step, better.Reason, better.Do = StepTCP, words+" ("+f.Reason+")", captureAdvice(u.dialer.Control != nil)
	u.reports.known(e, &better, time.Now())
	return &better
}

func (u *upstreams) adviseTCP(e settings.Endpoint, f *Failure, err error) {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		f.Step = StepDNS
		u.adviseDNS(e, f)
	case e.Network == "unix":
		f.Do = "evermeshd must listen on that socket, and the agent's user (uid " + uid() + ") may write to it"
	case errors.Is(err, syscall.EPERM):
		f.Do = "give the agent the capability NET_ADMIN, or do without EVERMESH_IGNORE_MARK"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.Do = "evermeshd must run there and listen on that port"
	default:
		f.Do = "allow outbound connections to it: security group, network policy, route or private endpoint"
	}
}

func (u *upstreams) adviseDNS(e settings.Endpoint, f *Failure) {
	host, _, _ := net.SplitHostPort(e.Address)
	f.Tried = fmt.Sprintf("name %s, %s", host, nameServers("/etc/resolv.conf"))
	f.Do = "correct APPMESH_XDS_ENDPOINT, or have that name server know the name"
}

func (u *upstreams) adviseTLS(e settings.Endpoint, f *Failure, err error) {
	f.Tried = "CA file " + cmp.Or(u.caFile, "of the system")
	if u.signer.proof.Server != "" {
		f.Tried += ", server id " + u.signer.proof.Server
	}
	if u.signer.proof.CertFile != "" {
		f.Tried += ", client certificate " + u.signer.proof.CertFile
	}
	var record tls.RecordHeaderError
	switch text := fmt.Sprint(err); {
	case errors.As(err, &record), strings.Contains(text, "first record does not look like a TLS handshake"):
		f.Do = "what answers speaks no TLS: http:// in APPMESH_XDS_ENDPOINT if evermeshd has none there, or another port"
	case strings.Contains(text, "unknown authority"):
		f.Do = "set APPMESH_XDS_CA_FILE to the CA of the control plane (DATA_DIR/tls/ca.pem of evermeshd)"
	case strings.Contains(text, "expired or is not yet valid"):
		f.Do = "compare this machine's clock with the certificate's times, and renew it if it ended"
	case strings.Contains(text, "valid for the ids"):
		f.Do = "EVERMESH_XDS_SERVER_ID must be the SPIFFE id in the server's certificate"
	case strings.Contains(text, "certificate is valid for"), strings.Contains(text, "doesn't contain any IP SANs"), strings.Contains(text, "not valid for any names"):
		f.Do = "APPMESH_XDS_ENDPOINT must be a name or address that is in the server's certificate"
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"), strings.Contains(text, "unknown certificate"):
		f.Do = "set APPMESH_XDS_CLIENT_CERT_FILE to a certificate of the authorities in --xds-client-ca"
	case err != nil:
		f.Do = "look at what is between: a proxy or balancer that ends TLS, or a firewall that cuts it"
	default:
		f.Do = "something takes connections there and says nothing: it is not evermeshd, or evermeshd hangs"
	}
}

// refusal says in words what the control plane ended a stream with before it served anything.
func (u *upstreams) refusal(up *upstream, err error) *Failure {
	f := &Failure{Endpoint: up.endpoint.String(), Address: up.address}
	s := status.Convert(err)
	f.Reason = fmt.Sprintf("code %d, %s", s.Code(), cmp.Or(reason([]byte(s.Message())), "no message"))
	f.Tried = fmt.Sprintf("node %s, proof: %s", u.node, u.signer.words())
	switch s.Code() {
	case codes.OK:
		f.Step, f.Reason = StepService, "it ended the stream at once, without an error"
		f.Do = "nothing if it is being stopped: another replica is tried"
	case codes.InvalidArgument:
		f.Step, f.Do = StepResource, "create the virtual node or gateway, or correct APPMESH_RESOURCE_ARN"
	case codes.PermissionDenied:
		f.Step, f.Do = StepPermission, "allow that principal the action appmesh:StreamAggregatedResources on the node's ARN"
	case codes.ResourceExhausted:
		f.Step, f.Do = StepQuota, "stop some of the node's Envoys, or have the quota raised"
	case codes.Unauthenticated:
		f.Step, f.Do = StepCredentials, u.signer.advice(s.Message())
	case codes.Unimplemented:
		f.Step, f.Do = StepXDS, "APPMESH_XDS_ENDPOINT must be the xDS port of evermeshd (7071)"
	case codes.Unavailable:
		f.Step, f.Do = StepService, "look at evermeshd's log if it goes on: the replica is stopped, restarted or cut off from its store"
	case codes.Internal:
		f.Step, f.Do = StepService, "look at evermeshd's log; without a message the connection was cut between here and there: a firewall, a proxy, or interception that takes the agent's own traffic"
	default:
		f.Step, f.Do = StepService, "look at evermeshd's log"
	}
	return f
}

// nameServers are those of a resolv.conf, in words.
func nameServers(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "no name server (" + reason([]byte(err.Error())) + ")"
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" && len(out) < 3 {
			out = append(out, words[1])
		}
	}
	if len(out) == 0 {
		return "no name server in " + file
	}
	return "name server " + strings.Join(out, ", ")
}
