package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

const (
	unsignedPayload = "UNSIGNED-PAYLOAD"
	// emptyPayload is the hash of no body.
	emptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	// credentialsWait bounds the search for credentials: the metadata services that AWS's rules end with are silent
	// on machines that are not Amazon's.
	credentialsWait = 5 * time.Second
	// metadataWait bounds it where only the metadata service of an instance is left to ask.
	metadataWait = 2 * time.Second
	// credentialsRetry is how long the search is not repeated after it found nothing, as long as it never found any.
	credentialsRetry = time.Minute
)

// source is where credentials come from: aws.CredentialsProvider, and what it is in words.
type source interface {
	Retrieve(ctx context.Context) (aws.Credentials, error)
	words() string      // where they are looked for
	onlyMetadata() bool // nothing is left to ask but the instance's metadata service
	invalidate()        // what it gave was refused
}

// signer signs streams with Signature Version 4 (AGENT-044). A stream is one request: its messages are not signed.
type signer struct {
	credentials source
	region      string
	service     string // the signing name
	clock       *clock
	log         *slog.Logger
	v4          *v4.Signer
	proof       settings.Proof

	mu      sync.Mutex
	looking *looking  // nil while nobody searches
	nextTry time.Time // after a search that found nothing
	found   bool      // credentials, once
	said    bool      // that there are none
	wrong   error     // why the last search found none
}

func newSigner(credentials source, region, service string, log *slog.Logger) *signer {
	return &signer{credentials: credentials, region: region, service: service, clock: &clock{now: time.Now}, log: log, v4: v4.NewSigner()}
}

// words say how the agent proves who it is, and with what.
func (s *signer) words() string {
	switch {
	case s.proof.Unsigned() && s.proof.TokenFile != "":
		return "token " + readable(s.proof.TokenFile) + role(s.proof)
	case s.proof.Unsigned():
		return "client certificate " + readable(s.proof.CertFile) + role(s.proof)
	case s.credentials == nil:
		return "none"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	words := "signature, credentials from " + s.credentials.words()
	if s.wrong != nil {
		words += ": none found, so not signed"
	}
	return words
}

func role(p settings.Proof) string {
	if p.Role == "" {
		return ""
	}
	return " for role " + p.Role
}

// advice is what helps when the proof is refused (code 16).
func (s *signer) advice(refusal string) string {
	if s.proof.Unsigned() {
		return "have the token or certificate renewed, and its issuer registered at the control plane"
	}
	s.mu.Lock()
	wrong := s.wrong
	s.mu.Unlock()
	switch {
	case wrong != nil:
		return "give the agent credentials of the control plane's IAM, a token (EVERMESH_TOKEN_FILE) or a client certificate; the search said: " + reason([]byte(wrong.Error()))
	case skewed.MatchString(refusal) && s.clock.ahead() == 0:
		return "correct this machine's clock"
	case skewed.MatchString(refusal):
		return "nothing: the next signature is made by the control plane's clock; correct this machine's: " + clockWords(s.clock.ahead())
	case strings.Contains(refusal, "does not match the signature"):
		return "compare the secret key; a proxy that changes requests in between does this as well"
	case strings.Contains(refusal, "scoped to a valid region"):
		return "set AWS_REGION to the control plane's region"
	case strings.Contains(refusal, "expired"):
		return "have the source of the credentials renew them; the agent asks it again for its next stream"
	}
	return "the key must be one of the control plane's IAM or STS, not one of another account or of AWS itself"
}

// refused learns from a refusal of e's with code 16: the time, and that credentials are to be asked for anew. It says
// whether the next attempt can go better at once. Who could change what comes over plaintext could have signatures made
// for later: there no time is taken.
func (s *signer) refused(e settings.Endpoint, refusal string) (again bool) {
	if s.proof.Unsigned() {
		return false
	}
	if skewed.MatchString(refusal) && !e.TLS && !e.Here() {
		return false
	}
	if offset, ok := s.clock.correct(refusal); ok {
		s.log.Warn("signatures are made by the control plane's clock", "clock", clockWords(offset))
		return true
	}
	if s.credentials != nil {
		s.credentials.invalidate()
	}
	return false
}

// sign returns the headers that sign a call of method at e. Without credentials there are none, and the control
// plane decides whether it wants any. What has another proof is not signed.
func (s *signer) sign(ctx context.Context, e settings.Endpoint, method string) (metadata.MD, error) {
	header, err := s.headers(ctx, e, http.MethodPost, &url.URL{Path: method}, unsignedPayload)
	if err != nil {
		return nil, err
	}
	md := metadata.MD{}
	for name, values := range header {
		md[strings.ToLower(name)] = values
	}
	return md, nil
}

// signRequest is sign for a request of HTTP without a body.
func (s *signer) signRequest(ctx context.Context, e settings.Endpoint, method string, target *url.URL) (http.Header, error) {
	return s.headers(ctx, e, method, target, emptyPayload)
}

// headers are what proves a request; payload is the hash of its body, or unsignedPayload.
func (s *signer) headers(ctx context.Context, e settings.Endpoint, method string, target *url.URL, payload string) (http.Header, error) {
	if s.proof.Unsigned() {
		return headers(s.proof, e)
	}
	c, err := s.retrieve(ctx)
	if err != nil || !c.HasKeys() {
		return http.Header{}, err
	}
	if s.region == "" {
		return nil, errors.New("sign stream: AWS_REGION must name the control plane's region")
	}
	scheme := "http"
	if e.TLS {
		scheme = "https"
	}
	r := &http.Request{
		Method: method,
		URL:    &url.URL{Scheme: scheme, Host: e.Authority, Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
		Host:   e.Authority,
		Header: http.Header{"X-Amz-Content-Sha256": {payload}},
	}
	if err := s.v4.SignHTTP(ctx, c, r, payload, s.service, s.region, s.clock.time()); err != nil {
		return nil, fmt.Errorf("sign stream: %w", err)
	}
	return r.Header, nil
}

// search is retrieve for one at a time. Who once had credentials is to have them again: without them the control plane
// refuses the stream, so a failure is an error, and the stream tried again.
func (s *signer) search(ctx context.Context) (aws.Credentials, error) {
	s.mu.Lock()
	wait := s.clock.now().Before(s.nextTry)
	s.mu.Unlock()
	if wait || s.credentials == nil {
		return aws.Credentials{}, nil
	}
	bound := credentialsWait
	if !s.knows() && s.credentials.onlyMetadata() {
		bound = metadataWait
	}
	search, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	c, err := s.credentials.Retrieve(search)
	if ctx.Err() != nil {
		return aws.Credentials{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = err
	switch {
	case err == nil:
		s.found = s.found || c.HasKeys()
	case s.found:
		return aws.Credentials{}, fmt.Errorf("sign stream: find credentials: %w", err)
	default:
		s.nextTry = s.clock.now().Add(credentialsRetry)
		if !s.said {
			s.said = true
			s.log.Warn("no credentials found, xds streams are not signed", "tried", s.credentials.words(), "err", err)
		}
		return aws.Credentials{}, nil
	}
	return c, nil
}

// vain says whether a search was made, and none ever found any.
func (s *signer) vain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said && !s.found
}

// knows says whether credentials were ever found.
func (s *signer) knows() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}
