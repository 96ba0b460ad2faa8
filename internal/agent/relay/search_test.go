package relay

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// slowSource answers when it is told to.
type slowSource struct {
	asked  atomic.Int32
	begun  chan struct{} // one for each search
	answer chan struct{}
}

func (s *slowSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	s.asked.Add(1)
	s.begun <- struct{}{}
	select {
	case <-s.answer:
		return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}, nil
	case <-ctx.Done():
		return aws.Credentials{}, ctx.Err()
	}
}

func (*slowSource) words() string      { return "a slow source" }
func (*slowSource) onlyMetadata() bool { return false }
func (*slowSource) invalidate()        {}

// TestSearchIsShared has streams wait for what is left of the search that began with the agent.
func TestSearchIsShared(t *testing.T) {
	slow := func(t *testing.T) (*slowSource, *signer) {
		log, _ := agenttest.Log(t)
		source := &slowSource{begun: make(chan struct{}, 10), answer: make(chan struct{})}
		return source, newSigner(source, "us-east-1", "appmesh", log)
	}
	t.Run("AGENT-044 all are given what is found", func(t *testing.T) {
		source, s := slow(t)
		var wg sync.WaitGroup
		var got [5]aws.Credentials
		for i := range got {
			wg.Go(func() { got[i], _ = s.retrieve(t.Context()) })
		}
		<-source.begun
		close(source.answer)
		wg.Wait()
		for i, c := range got {
			if c.AccessKeyID != "AKID" {
				t.Errorf("%d got %q", i, c.AccessKeyID)
			}
		}
	})
	t.Run("who joins is not ended with who began", func(t *testing.T) {
		source, s := slow(t)
		first, end := context.WithCancel(t.Context())
		defer end()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.retrieve(first); !errors.Is(err, context.Canceled) {
				t.Errorf("who began got %v", err)
			}
		})
		<-source.begun
		var joined aws.Credentials
		wg.Go(func() { joined, _ = s.retrieve(t.Context()) })
		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := s.retrieve(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait got %v", err)
		}
		if n := source.asked.Load(); n != 1 {
			t.Errorf("the source was asked %d times while one search went on", n)
		}
		end()
		<-source.begun // by who joined
		close(source.answer)
		wg.Wait()
		if joined.AccessKeyID != "AKID" {
			t.Errorf("who joined got %q", joined.AccessKeyID)
		}
	})
	t.Run("it ends with Close, and does not begin where there is nothing to be found", func(t *testing.T) {
		log, _ := agenttest.Log(t)
		found := Begin(t.Context(), settings.Settings{Proof: settings.Proof{TokenFile: "token"}}, log)
		found.Close()
		if found.signer.knows() || found.signer.said {
			t.Error("it looked for credentials where a token is the proof")
		}
	})
}
