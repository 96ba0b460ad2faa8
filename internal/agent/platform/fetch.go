package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxAnswer bounds an answer, in bytes; the description of a task with many containers is some 10 KB.
const maxAnswer = 1 << 20

// client asks the platform's services. They are on the machine or one hop away: no proxy, no redirection.
type client struct {
	http *http.Client
	wait time.Duration // for one try
}

func newClient(m Machine) client {
	dial := m.dial
	if dial == nil {
		dialer := m.Dialer
		if dialer == nil {
			dialer = &net.Dialer{}
		}
		dial = dialer.DialContext
	}
	return client{&http.Client{
		Transport:     &http.Transport{DialContext: dial, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, m.times(tryFor)}
}

func (c client) close() { c.http.CloseIdleConnections() }

// refused is an answer other than 200.
type refused int

func (r refused) Error() string {
	return fmt.Sprintf("answered %d %s", int(r), http.StatusText(int(r)))
}

// fetch returns the body of the answer. A service that does not answer, or has trouble, is asked once more.
func (c client) fetch(ctx context.Context, method, url string, header http.Header) (body []byte, err error) {
	for range tries {
		if body, err = c.once(ctx, method, url, header); err == nil || ctx.Err() != nil {
			break
		}
		if status, ok := errors.AsType[refused](err); ok && status < http.StatusInternalServerError {
			break
		}
	}
	return body, err
}

func (c client) once(ctx context.Context, method, target string, header http.Header) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if header != nil {
		r.Header = header
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, plain(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case answer.StatusCode != http.StatusOK:
		return nil, refused(answer.StatusCode)
	case err != nil:
		return nil, plain(err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("answered more than %d bytes", maxAnswer)
	}
	return body, nil
}

// plain takes the address out of an error: that of the task metadata is known to the task alone. Who waited in vain says
// so.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}
