//go:build linux

package fields

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/testenv"
)

// patience bounds everything that is expected to happen soon.
const patience = testenv.Patience

// probe looks at what the scene's Envoys do and says what it sees in a few
// words.
type probe func(t *testing.T, p *play) string

// all sees what each of them sees.
func all(see ...probe) probe {
	return func(t *testing.T, p *play) string {
		var words []string
		for _, s := range see {
			words = append(words, s(t, p))
		}
		return strings.Join(words, ", ")
	}
}

// mixed looks n times and tells what it saw, each once.
func mixed(n int, see probe) probe {
	return func(t *testing.T, p *play) string {
		words := map[string]bool{}
		for range n {
			words[see(t, p)] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(words)), " and ")
	}
}

// ask is a request from a host of the scene: its methods are probes. A header is
// "name: value".
type ask struct {
	from, method, target string
	header               []string
	http2, rpc           bool
	https                bool   // with TLS of the client's own
	certificate          string // of the client; "" is none
}

// get is a request from the client: its target is HOST:PORT/PATH.
func get(target string, header ...string) ask {
	return ask{from: "client", method: http.MethodGet, target: target, header: header}
}

// get2 is get by HTTP/2.
func get2(target string, header ...string) ask {
	a := get(target, header...)
	a.http2 = true
	return a
}

// rpc is a gRPC call from the client: its target is HOST:PORT/SERVICE/METHOD, its
// headers are metadata. Of both kinds of requests the header host says for whom they
// are.
func rpc(target string, header ...string) ask {
	a := get(target, header...)
	a.http2, a.rpc = true, true
	return a
}

// as is the request by another method.
func (a ask) as(method string) ask { a.method = method; return a }

// tls is the request with TLS, from a client with the certificate of that name.
func (a ask) tls(certificate string) ask { a.https, a.certificate = true, certificate; return a }

// answer is what came of a request. code is the HTTP status, or the name of the
// gRPC code; seen is nil where no application answered.
type answer struct {
	code  string
	seen  *seen
	tries int                 // in all applications of the scene
	chain []*x509.Certificate // of who answers, to a client with TLS
}

// app sees which application answers: "blue", or the status without one.
func (a ask) app(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return got.seen.App
}

// port sees the application and its port: "blue:8081".
func (a ask) port(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return fmt.Sprintf("%s:%d", got.seen.App, got.seen.Port)
}

// result sees the status and how often the request was tried: "503 after 3
// tries".
func (a ask) result(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.tries == 1 {
		return got.code + " after 1 try"
	}
	return fmt.Sprintf("%s after %d tries", got.code, got.tries)
}

// path sees the path that the application was asked for, host the name.
func (a ask) path(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return got.seen.Path
}

func (a ask) host(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return got.seen.Host
}

// server sees whom a client with TLS speaks with: "server as one.example, 1 in its
// chain", or "refused".
func (a ask) server(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	name, length := whose(got.chain)
	return fmt.Sprintf("%s as %s, %d in its chain", got.seen.App, name, length)
}

// secure sees how the application is spoken to: "server by TLS from one.example, 1
// in its chain", "server by TLS", or "server in plaintext".
func (a ask) secure(t *testing.T, p *play) string {
	got := a.do(t, p)
	switch {
	case got.seen == nil:
		return got.code
	case !got.seen.TLS:
		return got.seen.App + " in plaintext"
	case got.seen.Client == "":
		return got.seen.App + " by TLS"
	}
	return fmt.Sprintf("%s by TLS from %s, %d in its chain", got.seen.App, got.seen.Client, got.seen.Chain)
}

// proto sees the protocol that the application is spoken to by: "HTTP/1.1".
func (a ask) proto(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return got.seen.Proto
}

// family sees the application and by which family of addresses it was reached:
// "green by IPv6".
func (a ask) family(t *testing.T, p *play) string {
	got := a.do(t, p)
	if got.seen == nil {
		return got.code
	}
	return got.seen.App + " by " + got.seen.Family
}

// status sees the status alone.
func (a ask) status(t *testing.T, p *play) string { return a.do(t, p).code }

// do sends the request on a connection of its own.
func (a ask) do(t *testing.T, p *play) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := p.nextID()
	var out answer
	if a.rpc {
		out = a.call(ctx, t, p, id)
	} else {
		out = a.request(ctx, t, p, id)
	}
	for _, app := range p.apps {
		out.tries += app.triesOf(id)
	}
	return out
}

func (a ask) request(ctx context.Context, t *testing.T, p *play, id string) answer {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!a.http2)
	protocols.SetUnencryptedHTTP2(a.http2)
	transport := &http.Transport{Protocols: protocols, DialContext: p.host(t, a.from).Dial}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if a.https {
		scheme, transport.TLSClientConfig = "https", p.clientTLS(t, a.certificate)
	}
	req, err := http.NewRequestWithContext(ctx, a.method, scheme+"://"+a.target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range a.header {
		name, value, _ := strings.Cut(h, ": ")
		if name == "host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	req.Header.Set("X-Id", id)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			t.Fatalf("%s %s: %v", a.method, a.target, err)
		}
		if errors.Is(err, syscall.ECONNREFUSED) || a.https {
			return answer{code: "refused"}
		}
		return answer{code: "reset"}
	}
	defer resp.Body.Close()
	out := answer{code: fmt.Sprint(resp.StatusCode)}
	if resp.TLS != nil {
		out.chain = resp.TLS.PeerCertificates
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		out.code += ", then reset"
		return out
	}
	if resp.Header.Get("X-App") != "" {
		out.seen = &seen{}
		if err := json.Unmarshal(text, out.seen); err != nil {
			t.Fatalf("%s %s: %v in %q", a.method, a.target, err, text)
		}
	}
	return out
}

func (a ask) call(ctx context.Context, t *testing.T, p *play, id string) answer {
	t.Helper()
	at, method, _ := strings.Cut(a.target, "/")
	from := p.host(t, a.from)
	authority := at
	for _, h := range a.header {
		if name, ok := strings.CutPrefix(h, "host: "); ok {
			authority = name
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+at, grpc.WithAuthority(authority), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return from.Dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pairs := metadata.Pairs("x-id", id)
	for _, h := range a.header {
		if name, value, _ := strings.Cut(h, ": "); name != "host" {
			pairs.Append(name, value)
		}
	}
	var out wrapperspb.StringValue
	err = conn.Invoke(metadata.NewOutgoingContext(ctx, pairs), "/"+method, wrapperspb.String("?"), &out)
	if ctx.Err() != nil {
		t.Fatalf("call %s: %v", a.target, err)
	}
	got := answer{code: status.Code(err).String()}
	if err == nil {
		got.seen = &seen{}
		if err := json.Unmarshal([]byte(out.GetValue()), got.seen); err != nil {
			t.Fatalf("call %s: %v in %q", a.target, err, out.GetValue())
		}
	}
	return got
}

// valueOf is a request's metadata, as the server has it.
func valueOf(ctx context.Context, name string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get(name), ", ")
}

// line is a TCP connection from the client: its methods are probes.
type line struct{ from, target string }

func dial(target string) line { return line{"client", target} }

// app sees who greets: "blue:8090", or nothing.
func (l line) app(t *testing.T, p *play) string {
	conn, greeting := l.open(t, p)
	if conn != nil {
		_ = conn.Close()
	}
	return greeting
}

// after sees whether the connection, left alone, is still open after d.
func (l line) after(d time.Duration) probe {
	return func(t *testing.T, p *play) string {
		conn, greeting := l.open(t, p)
		if conn == nil {
			return greeting
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Read(make([]byte, 1))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return "open after " + d.String()
		}
		return "closed within " + d.String()
	}
}

func (l line) open(t *testing.T, p *play) (net.Conn, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := p.host(t, l.from).Dial(ctx, "tcp", l.target)
	if err != nil {
		return nil, "refused"
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	text, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		_ = conn.Close()
		return nil, "closed"
	}
	return conn, strings.TrimSpace(text)
}
