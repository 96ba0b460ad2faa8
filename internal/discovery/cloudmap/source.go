// Package cloudmap is the endpoint source that asks AWS Cloud Map, or another
// registry that speaks its API, for the instances of virtual nodes with
// serviceDiscovery.awsCloudMap.
//
// A Source looks again and again, because Cloud Map tells nobody of a change. It
// gives discovery.Registry what was found and never makes an error into an empty
// set (D6.4): whoever registers services says "none" with an answer without
// instances. watch.go is one query over time.
package cloudmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
)

const (
	// MaxPoll is the longest time between two looks at a service: a new instance
	// is a client's endpoint within seconds (DISC-010).
	MaxPoll = 5 * time.Second

	requestTimeout = 5 * time.Second
	// inFlight bounds the requests that run at once. It is what the SDK keeps of
	// idle connections to a host.
	inFlight = 10
	// most is how many instances Cloud Map returns in one answer, and so of a
	// service: there are no pages.
	most = 1000
)

// Config is what a Source needs.
type Config struct {
	// AWS gives region, credentials and, where there is no Endpoint, AWS's own.
	AWS aws.Config
	// Endpoint is the URL of another Cloud Map than AWS's, or empty. Its host is
	// used as it is: AWS's "data-" is not put before it.
	Endpoint string
	Poll     time.Duration // between two looks at a service; 0 is MaxPoll
	Log      *slog.Logger
}

// Source asks one Cloud Map. It is a discovery.Source.
type Source struct {
	client *servicediscovery.Client
	poll   time.Duration
	log    *slog.Logger
	slots  chan struct{} // of requests in flight
	// wholeOnly says that the endpoint does not tell revisions.
	wholeOnly atomic.Bool
}

// New makes a Source. Nothing is asked before the first Watch.
func New(c Config) *Source {
	if c.Poll == 0 {
		c.Poll = MaxPoll
	}
	return &Source{
		poll: c.Poll, log: c.Log, slots: make(chan struct{}, inFlight),
		client: servicediscovery.NewFromConfig(c.AWS, func(o *servicediscovery.Options) {
			o.Retryer = aws.NopRetryer{} // the registry asks again, with its own back-off
			if c.Endpoint != "" {
				o.BaseEndpoint = &c.Endpoint
				o.APIOptions = append(o.APIOptions, plainHost)
			}
		}),
	}
}

// plainHost keeps "data-" from the host of an endpoint that is not AWS's.
func plainHost(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("PlainHost",
		func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
			return next.HandleInitialize(smithyhttp.DisableEndpointHostPrefix(ctx, true), in)
		}), middleware.Before)
}

// Watch looks for the query's instances every poll interval and calls found with
// each answer, until ctx ends or a look fails.
func (s *Source) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	w := watch{source: s, query: q}
	for {
		set, err := w.look(ctx)
		if err != nil {
			return fmt.Errorf("ask cloud map: %w", err)
		}
		found(set)
		select {
		case <-time.After(s.pause()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause is the poll interval, less up to a tenth, so that the looks at many
// services spread.
func (s *Source) pause() time.Duration { return s.poll - rand.N(s.poll/10+1) }

// instances are the healthy instances that have all of the query's attributes
// (DISC-005, DISC-013).
func (s *Source) instances(ctx context.Context, q envoy.EndpointQuery) (out *servicediscovery.DiscoverInstancesOutput, err error) {
	in := &servicediscovery.DiscoverInstancesInput{
		NamespaceName: &q.Namespace, ServiceName: &q.Service, MaxResults: aws.Int32(most),
		HealthStatus: types.HealthStatusFilterHealthy, QueryParameters: discovery.Attributes(q),
	}
	err = s.request(ctx, func(ctx context.Context) (err error) {
		out, err = s.client.DiscoverInstances(ctx, in)
		return err
	})
	return out, err
}

// revision is that of the service's instances, 0 where it is not told.
func (s *Source) revision(ctx context.Context, q envoy.EndpointQuery) (revision int64, err error) {
	err = s.request(ctx, func(ctx context.Context) error {
		out, err := s.client.DiscoverInstancesRevision(ctx, &servicediscovery.DiscoverInstancesRevisionInput{
			NamespaceName: &q.Namespace, ServiceName: &q.Service,
		})
		if err == nil && out.InstancesRevision != nil {
			revision = *out.InstancesRevision
		}
		return err
	})
	return revision, err
}

// request does one of a bounded number of requests, and in a bounded time.
func (s *Source) request(ctx context.Context, do func(context.Context) error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := do(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within %v: %w", requestTimeout, err)
	}
	return err
}

// notOffered says whether an error means that the endpoint does not have the
// operation, or does not let us use it: policies older than the operation do not
// name it.
func notOffered(err error) bool {
	var status *smithyhttp.ResponseError
	if errors.As(err, &status) && (status.HTTPStatusCode() == http.StatusNotFound || status.HTTPStatusCode() == http.StatusNotImplemented) {
		return true
	}
	var refusal smithy.APIError
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.ErrorCode() {
	case "UnknownOperationException", "UnknownOperation", "InvalidAction", "NotImplemented", "AccessDeniedException", "AccessDenied":
		return true
	}
	return false
}
