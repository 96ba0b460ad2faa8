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
	// credentialsRetry is how long the search is not repeated after it found nothing, as long as it never found any.
	credentialsRetry = time.Minute
)

// signer signs streams with Signature Version 4 (AGENT-044). A stream is one request: its messages are not signed.
type signer struct {
	credentials aws.CredentialsProvider
	region      string
	service     string // the signing name
	now         func() time.Time
	log         *slog.Logger
	v4          *v4.Signer
	proof       settings.Proof

	mu      sync.Mutex
	nextTry time.Time // after a search that found nothing
	found   bool      // credentials, once
}

func newSigner(credentials aws.CredentialsProvider, region, service string, log *slog.Logger) *signer {
	return &signer{credentials: credentials, region: region, service: service, now: time.Now, log: log, v4: v4.NewSigner()}
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
	if err := s.v4.SignHTTP(ctx, c, r, payload, s.service, s.region, s.now()); err != nil {
		return nil, fmt.Errorf("sign stream: %w", err)
	}
	return r.Header, nil
}

// retrieve finds the credentials now valid; none after a search that found nothing. Who once had credentials is to have
// them again: without them the control plane refuses the stream, so a failure is an error, and the stream tried again.
func (s *signer) retrieve(ctx context.Context) (aws.Credentials, error) {
	s.mu.Lock()
	wait := s.now().Before(s.nextTry)
	s.mu.Unlock()
	if wait || s.credentials == nil {
		return aws.Credentials{}, nil
	}
	search, cancel := context.WithTimeout(ctx, credentialsWait)
	defer cancel()
	c, err := s.credentials.Retrieve(search)
	if ctx.Err() != nil {
		return aws.Credentials{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.found = s.found || c.HasKeys()
	case s.found:
		return aws.Credentials{}, fmt.Errorf("sign stream: find credentials: %w", err)
	default:
		s.nextTry = s.now().Add(credentialsRetry)
		s.log.Warn("no credentials found, xds streams are not signed", "err", err)
		return aws.Credentials{}, nil
	}
	return c, nil
}
