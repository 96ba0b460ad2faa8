// Package forward sends requests for a service around the mesh to where the service
// really is: to AWS, or to another endpoint that speaks its API. A request goes on in
// the protocol that it came in, signed anew with the control plane's own credentials;
// those of who sent it mean nothing there.
//
// Start with New; what may be asked, and by whom, is settled before by package rest.
package forward

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// AWS is the endpoint that stands for AWS's own.
const AWS = "aws"

const (
	// wait bounds one request; AWS's clients wait for a minute.
	wait = 30 * time.Second
	// maxAnswer is the size of the largest answer in bytes.
	maxAnswer = 16 << 20
)

// Config says where a service is.
type Config struct {
	// Name is what requests are signed for: servicediscovery.
	Name string
	// Endpoint is a URL without path, or AWS.
	Endpoint string
	Region   string
	// Partition is that of AWS: aws, aws-cn.
	Partition   string
	Credentials aws.CredentialsProvider
	Now         func() time.Time
}

// Service is a service that is elsewhere. It is safe for concurrent use.
type Service struct {
	config   Config
	endpoint *url.URL
	client   *http.Client
	signer   *v4.Signer
}

// Check says what is wrong with an endpoint.
func Check(endpoint string) error {
	if endpoint == AWS {
		return nil
	}
	at, err := url.Parse(endpoint)
	if err != nil || at.Host == "" || (at.Scheme != "http" && at.Scheme != "https") || strings.Trim(at.Path, "/") != "" || at.RawQuery != "" || at.User != nil {
		return fmt.Errorf("%q: want aws, or a URL such as https://moto.example.com", endpoint)
	}
	return nil
}

// New makes a Service; nothing is asked yet.
func New(c Config) (*Service, error) {
	if err := Check(c.Endpoint); err != nil {
		return nil, err
	}
	if c.global() {
		c.Region = globalRegion(c.Partition)
	}
	endpoint := c.Endpoint
	if endpoint == AWS {
		endpoint = c.home()
	}
	at, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint of %s: %w", c.Name, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // the answer goes on as it comes
	return &Service{config: c, endpoint: at, signer: v4.NewSigner(), client: &http.Client{
		Transport: transport, Timeout: wait,
		// The signature is for this host alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// global says whether the service is one for all regions.
func (c Config) global() bool { return c.Name == "iam" }

func globalRegion(partition string) string {
	if partition == "aws-cn" {
		return "cn-north-1"
	}
	return "us-east-1"
}

// home is AWS's endpoint of the service.
func (c Config) home() string {
	domain := "amazonaws.com"
	if c.Partition == "aws-cn" {
		domain = "amazonaws.com.cn"
	}
	switch {
	case c.Name == "eks-auth":
		return "https://eks-auth." + c.Region + ".api.aws"
	case c.global() && c.Partition == "aws-cn":
		return "https://iam.cn-north-1." + domain
	case c.global():
		return "https://iam." + domain
	}
	return "https://" + c.Name + "." + c.Region + "." + domain
}

// passed are the headers of a request that go on with it. Who signed it, and how, does
// not.
var passed = []string{"Content-Type", "X-Amz-Target", "Smithy-Protocol", "Accept"}

// back are those of an answer that go back.
var back = []string{"Content-Type", "Smithy-Protocol", "X-Amzn-Errortype", "Retry-After"}

// Answer is what the service said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Send sends a request on and returns the answer, whatever its status. path and query
// are as they came. An error means that there was no answer; the request may have been
// carried out all the same.
func (s *Service) Send(ctx context.Context, operation, method, requestURI string, header http.Header, body []byte) (*Answer, error) {
	to := *s.endpoint
	path, query, _ := strings.Cut(requestURI, "?")
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("forward to %s: path: %w", s.config.Name, err)
	}
	to.Path, to.RawPath, to.RawQuery = plain, path, unsigned(query)
	if s.config.Endpoint == AWS && strings.HasPrefix(operation, "DiscoverInstances") {
		to.Host = "data-" + to.Host // as the model of Cloud Map says
	}
	r, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("forward to %s: %w", s.config.Name, err)
	}
	for _, name := range passed {
		if v := header.Values(name); len(v) > 0 {
			r.Header[name] = slices.Clone(v)
		}
	}
	credentials, err := s.config.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("forward to %s: credentials: %w", s.config.Name, err)
	}
	sum := sha256.Sum256(body)
	if err := s.signer.SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), s.config.Name, s.config.Region, s.config.Now()); err != nil {
		return nil, fmt.Errorf("forward to %s: sign: %w", s.config.Name, err)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("forward to %s: %w", s.config.Name, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("forward to %s: %w", s.config.Name, err)
	}
	out := &Answer{Status: resp.StatusCode, Header: http.Header{}, Body: text}
	for _, name := range back {
		if v := resp.Header.Values(name); len(v) > 0 {
			out.Header[name] = v
		}
	}
	return out, nil
}

// Close lets go of connections that are kept for the next request.
func (s *Service) Close() { s.client.CloseIdleConnections() }

// unsigned takes the signature of a presigned request out of a query.
func unsigned(query string) string {
	if !strings.Contains(query, "X-Amz-") {
		return query
	}
	parts := slices.DeleteFunc(strings.Split(query, "&"), func(p string) bool { return strings.HasPrefix(p, "X-Amz-") })
	return strings.Join(parts, "&")
}
