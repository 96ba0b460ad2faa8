package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

const (
	// attempts is how often a call is made in all, and firstPause the mean wait
	// before the second attempt; each wait is twice the one before.
	attempts   = 4
	firstPause = 200 * time.Millisecond
	// patience is how long after its start a call makes no further attempt: a
	// server whose store is silent takes its time for each refusal.
	patience = 10 * time.Second
	// callTimeout bounds one attempt of Call. A stream has no bound but its
	// context.
	callTimeout = 30 * time.Second
	// maxLine and maxAnswer bound what is read of an answer, in bytes.
	maxLine   = 8 << 20
	maxAnswer = 64 << 20
)

// Doer sends one HTTP request; *http.Client is one. It must not follow
// redirects to other hosts: a request is signed for one.
type Doer interface {
	Do(r *http.Request) (*http.Response, error)
}

// Config is what a Client needs. Load fills it from the environment.
type Config struct {
	Endpoint    string // http://127.0.0.1:7070
	Region      string // us-east-1
	Credentials aws.CredentialsProvider
	HTTP        Doer
	Now         func() time.Time
	// Sleep waits, or returns the context's error when that ends first.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client calls the operations of App Mesh and of Evermesh on one endpoint. It
// is safe for concurrent use.
type Client struct {
	Config
	models []*model.Model
	signer *v4.Signer
}

// New makes a Client. Unset Now and Sleep are those of package time, unset HTTP
// is http.DefaultClient.
func New(c Config) (*Client, error) {
	if !strings.HasPrefix(c.Endpoint, "http://") && !strings.HasPrefix(c.Endpoint, "https://") {
		return nil, fmt.Errorf("endpoint %q is not an http:// or https:// URL", c.Endpoint)
	}
	if c.Region == "" || c.Credentials == nil {
		return nil, errors.New("a client needs a region and credentials")
	}
	appMesh, err := model.AppMesh()
	if err != nil {
		return nil, err
	}
	evermesh, err := model.Evermesh()
	if err != nil {
		return nil, err
	}
	c.Endpoint = strings.TrimRight(c.Endpoint, "/")
	if c.HTTP == nil {
		c.HTTP = http.DefaultClient
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	return &Client{Config: c, models: []*model.Model{appMesh, evermesh}, signer: v4.NewSigner()}, nil
}

// Call runs an operation, such as DescribeRoute: in is its input (a pointer to
// or value of the input type of package api, or a map), out a pointer to its
// output type, or nil. An input that takes an idempotency token and has none is
// given one, so that a repeated attempt is the same request.
//
// What the server refuses comes back as *api.Error. Answers 429 and 503 are
// tried again with back-off, four attempts in all and none begun later than ten
// seconds after the first; nothing else is.
func (c *Client) Call(ctx context.Context, operation string, in, out any) error {
	return c.run(ctx, operation, in, func(ctx context.Context, req *request) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := c.send(ctx, req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // everything needed was read
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		return req.decode(body, out)
	})
}

// Stream runs an operation that answers many JSON lines (watch=true) and hands
// each to line until the server ends the stream (nil), ctx ends, or line
// returns an error, which Stream returns as it is. Attempts are repeated as in
// Call, but only before the first byte of an answer.
func (c *Client) Stream(ctx context.Context, operation string, in any, line func(json.RawMessage) error) error {
	return c.run(ctx, operation, in, func(ctx context.Context, req *request) error {
		resp, err := c.send(ctx, req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // a failed close of a read stream means nothing
		scanner := bufio.NewScanner(resp.Body)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			if len(scanner.Bytes()) == 0 {
				continue
			}
			if err := line(json.RawMessage(append([]byte(nil), scanner.Bytes()...))); err != nil {
				return err
			}
		}
		if err := scanner.Err(); err != nil {
			return fmt.Errorf("read stream: %w", err)
		}
		return nil
	})
}

// run makes the attempts of one operation.
func (c *Client) run(ctx context.Context, operation string, in any, attempt func(context.Context, *request) error) error {
	req, err := c.bind(operation, in)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	pause, start := firstPause, c.Now()
	for n := 1; ; n++ {
		err = attempt(ctx, req)
		var busy *busyError
		if !errors.As(err, &busy) {
			break
		}
		err = busy.answer
		wait := pause/2 + rand.N(pause)
		if n == attempts || c.Now().Sub(start)+wait > patience {
			break
		}
		if serr := c.Sleep(ctx, wait); serr != nil {
			break // the answer says more than that the caller gave up
		}
		pause *= 2
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// send signs and sends the request once. An answer that is not a success comes
// back as its error.
func (c *Client) send(ctx context.Context, req *request) (*http.Response, error) {
	r, sum, err := req.http(ctx, c.Endpoint)
	if err != nil {
		return nil, err
	}
	who, err := c.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("no usable credentials: %w", err)
	}
	if err := c.signer.SignHTTP(ctx, who, r, sum, req.service, c.Region, c.Now()); err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // the error below matters more
	if err := refusal(resp); !errors.Is(err, errSpeaksTLS) {
		return nil, err
	}
	return nil, c.unreachable(errSpeaksTLS)
}

// busyError is an answer that asks to be tried again.
type busyError struct{ answer error }

func (e *busyError) Error() string { return e.answer.Error() }

// refusal reads an error answer as AWS's SDKs do: the code from the header, the
// text from the body.
func refusal(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what came is enough
	code, _, _ := strings.Cut(resp.Header.Get("X-Amzn-ErrorType"), ":")
	var text struct {
		Message string `json:"message"` // matches Message, too
		Type    string `json:"__type"`
	}
	err := json.Unmarshal(body, &text)
	if code == "" && err == nil {
		code = text.Type[strings.LastIndex(text.Type, "#")+1:]
	}
	var answer error = &api.Error{Code: code, Message: text.Message}
	if code == "" {
		if resp.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
			return errSpeaksTLS // as Go's server puts it
		}
		answer = fmt.Errorf("the answer is %s and not one of the App Mesh API: check the endpoint", resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &busyError{answer}
	}
	return answer
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
