package relay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// A search that finds nothing is not repeated for a minute; one that fails although credentials were found before makes
// no unsigned stream.
func TestFailuresToFindCredentials(t *testing.T) {
	log, _ := agenttest.Log(t)
	var fails error
	searches := 0
	provider := given(func(context.Context) (aws.Credentials, error) {
		searches++
		return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "secret"}, fails
	})
	s := newSigner(provider, "us-east-1", "appmesh", log)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.clock.now = func() time.Time { return now }
	for _, step := range []struct {
		name     string
		after    time.Duration
		fails    error
		signed   bool
		err      bool
		searches int // until then
	}{
		{"there are none", 0, errors.New("throttled"), false, false, 1},
		{"nor soon after", 59 * time.Second, nil, false, false, 1},
		{"there are some", time.Second, nil, true, false, 2},
		{"the service is slow", time.Second, context.DeadlineExceeded, false, true, 3},
		{"it is tried again at once", 0, errors.New("throttled"), false, true, 4},
		{"and works again", time.Second, nil, true, false, 5},
	} {
		fails, now = step.fails, now.Add(step.after)
		md, err := s.sign(t.Context(), settings.Endpoint{Network: "tcp", Address: "control.example:443", Authority: "control.example", TLS: true}, "/"+adsService+"/"+delta)
		if signed := len(md.Get("authorization")) > 0; signed != step.signed || (err != nil) != step.err || searches != step.searches {
			t.Errorf("%s: signed %t, error %v, %d searches; want %+v", step.name, signed, err, searches, step)
		}
	}
}

// Over plaintext nobody tells the time: a signature for later could be made to be used then.
func TestClockOverPlaintext(t *testing.T) {
	t.Parallel()
	log, _ := agenttest.Log(t)
	s := newSigner(nil, "us-east-1", "appmesh", log)
	const refusal = "Signature expired: 20260101T000000Z is now earlier than 20260101T235500Z (20260102T000000Z - 5 min.)"
	e := settings.Endpoint{Network: "tcp", Address: "control.example:7071"}
	if s.refused(e, refusal) || s.clock.ahead() != 0 || s.advice(refusal) != "correct this machine's clock" {
		t.Errorf("off by %s, %q", s.clock.ahead(), s.advice(refusal))
	}
	e.TLS = true
	if !s.refused(e, refusal) || s.clock.ahead() == 0 {
		t.Error("not corrected over TLS")
	}
}

// given is a source that the test writes.
type given func(context.Context) (aws.Credentials, error)

func (g given) Retrieve(ctx context.Context) (aws.Credentials, error) { return g(ctx) }
func (given) words() string                                           { return "the test" }
func (given) onlyMetadata() bool                                      { return false }
func (given) invalidate()                                             {}
