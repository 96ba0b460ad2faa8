package ads

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/testenv"
)

// untold is memory of a key and a policy that another replica has written at revision 9:
// it is told of them when somebody who was refused has read how far the store is.
type untold struct {
	*catchup.Memory
	revision atomic.Int64
	told     chan struct{}
	reads    atomic.Int64
}

func newUntold(t *testing.T) *untold {
	t.Helper()
	b := &untold{told: make(chan struct{})}
	b.revision.Store(8)
	tell := sync.OnceFunc(func() { b.revision.Store(9); close(b.told) })
	b.Memory = catchup.New(catchup.Config{
		Heads: func(context.Context, ...string) ([]int64, error) {
			b.reads.Add(1)
			go tell()
			return []int64{9}, nil
		},
		Followers: []catchup.Follower{{
			Tail: "account/", Codes: []string{api.CodeUnrecognizedClient, api.CodeAccessDenied}, Revision: b.revision.Load,
			Reach: func(ctx context.Context, _ int64) bool {
				select {
				case <-b.told:
					return true
				case <-ctx.Done():
					return false
				}
			},
		}},
		Patience: testenv.Patience, Now: time.Now,
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done; tell() })
	return b
}

// A stream is not refused for a key, or a policy, that this replica has not heard of yet.
func TestStreamsAreNotRefusedForOldMemory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config, *untold)
		refuse codes.Code // without memory that catches up
	}{
		"a key": {func(c *Config, b *untold) {
			c.Authenticate = func(context.Context, string, metadata.MD) (auth.Principal, error) {
				if b.revision.Load() < 9 {
					return auth.Principal{}, api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
				}
				return auth.Principal{Account: account}, nil
			}
		}, codes.Unauthenticated},
		"a policy": {func(c *Config, b *untold) {
			c.Authorize = func(auth.Principal, From, api.Key) error {
				if b.revision.Load() < 9 {
					return api.Errorf(api.CodeAccessDenied, "no")
				}
				return nil
			}
		}, codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newUntold(t)
			hasty := newRig(t, func(config *Config) { c.change(config, b) })
			stream := hasty.open(t, "a", true)
			_ = stream.Send(adstest.Request{Type: adstest.CDS})
			if code, _ := stream.End(t); code != c.refuse || b.reads.Load() != 0 {
				t.Errorf("without it the stream ended with %v, after %d reads", code, b.reads.Load())
			}
			r := newRig(t, func(config *Config) { c.change(config, b); config.Memory = b.Memory })
			for range 2 { // the second one knows it
				feed(t, r.open(t, "a", true))
			}
			if got := b.reads.Load(); got != 1 {
				t.Errorf("%d reads, want one of the first stream", got)
			}
			if b.revision.Load() != 9 {
				t.Error("it was served by old memory")
			}
		})
	}
}

// Streams that are open are asked again by the watch: then nobody reads the store.
func TestWhoIsAskedAgainReadsNothing(t *testing.T) {
	t.Parallel()
	b := newUntold(t)
	var forbidden atomic.Bool
	r := newRig(t, func(c *Config) {
		c.Memory = b.Memory
		c.Authorize = func(auth.Principal, From, api.Key) error {
			if forbidden.Load() {
				return api.Errorf(api.CodeAccessDenied, "no")
			}
			return nil
		}
	})
	s := r.open(t, "a", true)
	feed(t, s)
	forbidden.Store(true)
	r.Reauthorize(func(auth.Principal, api.Key) bool { return true })
	if code, _ := s.End(t); code != codes.PermissionDenied || b.reads.Load() != 0 {
		t.Errorf("ended with %v after %d reads", code, b.reads.Load())
	}
}
