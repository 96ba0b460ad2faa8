package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// webhookWait bounds one delivery.
const webhookWait = 10 * time.Second

// Webhook takes events by HTTP: each POST has lines of JSON, and is taken when it
// is answered with a status from 200 to 299.
type Webhook struct {
	URL    string // a user and password in it are sent; nothing of it is logged
	Client *http.Client
}

// NewWebhook makes a Webhook of its own connections.
func NewWebhook(to string) *Webhook {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = 1
	return &Webhook{URL: to, Client: &http.Client{
		Transport: transport, Timeout: webhookWait,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of connections.
func (w *Webhook) Close() { w.Client.CloseIdleConnections() }

// Send posts events.
func (w *Webhook) Send(ctx context.Context, lines [][]byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(append(bytes.Join(lines, []byte("\n")), '\n')))
	if err != nil {
		return errors.New("post events: the URL is none")
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("User-Agent", "evermeshd")
	resp, err := w.Client.Do(r)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // without the URL, which may have a secret
		}
		return fmt.Errorf("post events: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the connection to be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("post events: status %d", resp.StatusCode)
	}
	return nil
}
