package agent

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
)

// adminClient asks Envoy's administration interface.
type adminClient struct {
	http *http.Client
}

// maxAdminBody bounds what is read of an answer: statistics of a large mesh are some MiB.
const maxAdminBody = 64 << 20

func newAdminClient(a admin) *adminClient {
	network, address := "tcp", "127.0.0.1:"+strconv.Itoa(a.port)
	if a.socket != "" {
		network, address = "unix", a.socket
	}
	dialer := &net.Dialer{}
	return &adminClient{http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
	}}}
}

// call returns the answer's code and body, whatever the code is.
func (c *adminClient) call(ctx context.Context, method, path string, wait time.Duration) (int, string, error) {
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

// ok is call for who takes nothing but 200.
func (c *adminClient) ok(ctx context.Context, method, path string, wait time.Duration) (string, error) {
	code, text, err := c.call(ctx, method, path, wait)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("ask envoy for %s: status %d: %.200s", path, code, strings.TrimSpace(text))
	}
	return text, err
}

const adminWait = 2 * time.Second

// state is Envoy's state, such as LIVE or INITIALIZING; UNREACHABLE when it does not say.
func (c *adminClient) state(ctx context.Context) string {
	_, text, err := c.call(ctx, http.MethodGet, "/ready", adminWait)
	if err != nil {
		return stateUnreachable
	}
	return strings.TrimSpace(text)
}

// connected is Envoy's own view of its xDS stream.
func (c *adminClient) connected(ctx context.Context) bool {
	text, err := c.ok(ctx, http.MethodGet, "/stats?filter=control_plane.connected_state&format=json", adminWait)
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

// drain asks Envoy to drain its listeners, four times at most: a busy one may take longer than the 250 ms.
func (c *adminClient) drain(ctx context.Context) error {
	const tries, wait = 4, 250 * time.Millisecond
	pause := 100 * time.Millisecond
	for i := 1; ; i++ {
		_, err := c.ok(ctx, http.MethodPost, "/drain_listeners?graceful", wait)
		if err == nil || i == tries {
			return err
		}
		if sleep(ctx, pause) != nil {
			return err
		}
		pause = min(2*pause, time.Second)
	}
}
