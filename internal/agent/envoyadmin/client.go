// Package envoyadmin asks the administration interface of the agent's Envoy.
package envoyadmin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Client asks Envoy's administration interface.
type Client struct {
	http *http.Client
}

// maxAdminBody bounds what is read of an answer: statistics of a large mesh are some MiB.
const maxAdminBody = 64 << 20

// New makes a client of the interface at a.
func New(a settings.Admin) *Client {
	network, address := "tcp", "127.0.0.1:"+strconv.Itoa(a.Port)
	if a.Socket != "" {
		network, address = "unix", a.Socket
	}
	dialer := &net.Dialer{}
	return &Client{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}}
}

// Call returns the answer's code and body, whatever the code is.
func (c *Client) Call(ctx context.Context, method, path string, wait time.Duration) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return 0, "", fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	r.Header.Set("User-Agent", "appnetClient/1.0")
	answer, err := c.http.Do(r)
	if err != nil {
		return 0, "", fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAdminBody))
	if err != nil {
		return 0, "", fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	return answer.StatusCode, string(text), nil
}

// OK is Call for who takes nothing but 200.
func (c *Client) OK(ctx context.Context, method, path string, wait time.Duration) (string, error) {
	code, text, err := c.Call(ctx, method, path, wait)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("ask envoy for %s: status %d: %.200s", path, code, strings.TrimSpace(text))
	}
	return text, err
}

// Wait is how long Envoy may take to answer a short question.
const Wait = 2 * time.Second

// Unreachable is the State of an Envoy that does not answer.
const Unreachable = "UNREACHABLE"

// State is Envoy's state, such as LIVE or INITIALIZING; UNREACHABLE when it does not say.
func (c *Client) State(ctx context.Context) string {
	_, text, err := c.Call(ctx, http.MethodGet, "/ready", Wait)
	if err != nil {
		return Unreachable
	}
	return strings.TrimSpace(text)
}

// Connected is Envoy's own view of its xDS stream.
func (c *Client) Connected(ctx context.Context) bool {
	text, err := c.OK(ctx, http.MethodGet, "/stats?filter=control_plane.connected_state&format=json", Wait)
	if err != nil {
		return false
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return false
	}
	for _, s := range answer.Stats {
		if s.Name == "control_plane.connected_state" {
			return s.Value == 1
		}
	}
	return false
}

// Drain asks Envoy to drain its listeners, four times at most: a busy one may take longer than the 250 ms.
func (c *Client) Drain(ctx context.Context) error {
	const tries, wait = 4, 250 * time.Millisecond
	between := 100 * time.Millisecond
	for i := 1; ; i++ {
		_, err := c.OK(ctx, http.MethodPost, "/drain_listeners?graceful", wait)
		if err == nil || i == tries {
			return err
		}
		if pause.For(ctx, between) != nil {
			return err
		}
		between = min(2*between, time.Second)
	}
}
