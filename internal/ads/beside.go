package ads

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Agents ask on the port of their stream, over HTTP/1.1: they need no other address and
// no other proof. A connection is told apart by what TLS agreed on, or in plaintext by
// its first bytes, which are looked at and not taken: gRPC gets its connections as they
// came.

// http1 is the protocol's name in TLS's negotiation.
const http1 = "http/1.1"

// Beside makes a server's credentials, nil for plaintext, such that connections that
// speak HTTP/1.1 are accepted from others instead. Whoever serves those closes it.
func Beside(creds credentials.TransportCredentials) (split credentials.TransportCredentials, others *Others) {
	others = &Others{connections: make(chan net.Conn), closed: make(chan struct{})}
	if creds == nil {
		return plain{others: others}, others
	}
	return secure{creds, others}, others
}

// Others is a listener for the connections that are not gRPC's.
type Others struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

// Accept satisfies net.Listener.
func (o *Others) Accept() (net.Conn, error) {
	select {
	case c := <-o.connections:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}

// Close satisfies net.Listener.
func (o *Others) Close() error {
	o.once.Do(func() { close(o.closed) })
	return nil
}

// Addr satisfies net.Listener: it has none of its own.
func (*Others) Addr() net.Addr { return &net.TCPAddr{} }

// give hands a connection over, in the form that shown gives it, and returns when it is
// closed: after a handshake gRPC takes all deadlines off a connection, also off one that
// it leaves to others, who have set theirs by then.
func (o *Others) give(c net.Conn, shown func(net.Conn) net.Conn) (net.Conn, credentials.AuthInfo, error) {
	_ = c.SetDeadline(time.Time{}) // of gRPC's handshake
	l := &lent{Conn: c, back: make(chan struct{})}
	select {
	case o.connections <- shown(l):
		<-l.back
		return nil, nil, credentials.ErrConnDispatched
	case <-o.closed:
		_ = c.Close()
		return nil, nil, net.ErrClosed
	}
}

// lent is a connection that tells when it is closed.
type lent struct {
	net.Conn
	back chan struct{}
	once sync.Once
}

// Close satisfies net.Conn.
func (l *lent) Close() error {
	defer l.once.Do(func() { close(l.back) })
	return l.Conn.Close()
}

// CloseWrite lets a server end what it says before it closes the connection.
func (l *lent) CloseWrite() error {
	if c, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Proven is a connection of Others with TLS, and what its peer has shown.
type Proven struct {
	net.Conn
	TLS credentials.TLSInfo

	raw net.Conn
}

// NetConn is the connection below TLS, as of a tls.Conn: to close it waits for nobody.
func (p *Proven) NetConn() net.Conn { return p.raw }

// secure splits by what TLS agreed on.
type secure struct {
	credentials.TransportCredentials
	others *Others
}

// ServerHandshake satisfies credentials.TransportCredentials.
func (s secure) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := s.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return c, info, err
	}
	if shown, ok := info.(credentials.TLSInfo); ok && shown.State.NegotiatedProtocol == http1 {
		return s.others.give(c, func(c net.Conn) net.Conn { return &Proven{c, shown, raw} })
	}
	return c, info, nil
}

// Clone satisfies credentials.TransportCredentials.
func (s secure) Clone() credentials.TransportCredentials {
	return secure{s.TransportCredentials.Clone(), s.others}
}

// plain splits by a connection's first bytes.
type plain struct{ others *Others }

// ServerHandshake satisfies credentials.TransportCredentials.
func (p plain) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	other, err := speaksHTTP1(raw)
	switch {
	case err != nil:
		return nil, nil, err
	case other:
		return p.others.give(raw, func(c net.Conn) net.Conn { return c })
	}
	return raw, nil, nil
}

// ClientHandshake satisfies credentials.TransportCredentials: nobody dials with these.
func (plain) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return raw, nil, nil
}

// Info satisfies credentials.TransportCredentials.
func (plain) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone satisfies credentials.TransportCredentials.
func (p plain) Clone() credentials.TransportCredentials { return p }

// OverrideServerName satisfies credentials.TransportCredentials.
func (plain) OverrideServerName(string) error { return nil }
