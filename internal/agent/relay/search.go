package relay

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Search finds out who the agent is while it finds out where it is and Envoy starts: a search for credentials takes some
// milliseconds at best, and 2 s where it ends at a metadata service that is silent. Envoy's first stream waits for what
// is left of it.
type Search struct {
	dialer *net.Dialer
	signer *signer
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// Begin begins the search, if there is anything to be found. It ends at the latest when ctx does, or with Close.
func Begin(ctx context.Context, s settings.Settings, log *slog.Logger) *Search {
	ctx, stop := context.WithCancel(ctx)
	b := &Search{dialer: newDialer(s.Mark), stop: stop}
	b.signer = newSigner(newChain(b.dialer, log), s.Region, s.SigningName, log)
	b.signer.proof = s.Proof
	if !s.Proof.Unsigned() && s.ServiceConnect == "" {
		b.wg.Go(func() { _, _ = b.signer.retrieve(ctx) }) // who needs them learns why there are none
	}
	return b
}

// Close ends the search and waits for that. What was found can be used still.
func (b *Search) Close() {
	b.stop()
	b.wg.Wait()
}

// looking is a search for credentials that goes on.
type looking struct {
	done  chan struct{}
	got   aws.Credentials // set before done is closed, as are the following
	err   error
	ended bool // because who searched was told to end
}

// retrieve finds the credentials now valid; none after a search that found nothing. Who asks while somebody searches is
// given what that one finds.
func (s *signer) retrieve(ctx context.Context) (aws.Credentials, error) {
	for {
		s.mu.Lock()
		other := s.looking
		if other == nil {
			mine := &looking{done: make(chan struct{})}
			s.looking = mine
			s.mu.Unlock()
			mine.got, mine.err = s.search(ctx)
			mine.ended = ctx.Err() != nil
			s.mu.Lock()
			s.looking = nil
			s.mu.Unlock()
			close(mine.done)
			return mine.got, mine.err
		}
		s.mu.Unlock()
		select {
		case <-other.done:
			if other.ended {
				continue // it was told to end, and says nothing about this one
			}
			return other.got, other.err
		case <-ctx.Done():
			return aws.Credentials{}, ctx.Err()
		}
	}
}
