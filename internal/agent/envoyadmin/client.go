// Package envoyadmin asks the administration interface of the agent's Envoy.
package envoyadmin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
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

// maxAnswer bounds what is kept of an answer; statistics of a large mesh, which are some MiB, are for Read.
const maxAnswer = 4 << 20

// New makes a client of the interface at a.
func New(a settings.Admin) *Client {
	network, address := "tcp", net.JoinHostPort(cmp.Or(a.Address, "127.0.0.1"), strconv.Itoa(a.Port))
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

// ask sends a request; who gets the answer closes its body.
func (c *Client) ask(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	r.Header.Set("User-Agent", "appnetClient/1.0")
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	return answer, nil
}

// Call returns the answer's code and body, whatever the code is.
func (c *Client) Call(ctx context.Context, method, path string, wait time.Duration) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer, err := c.ask(ctx, method, path)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return 0, "", fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	return answer.StatusCode, string(text), nil
}

// Read gives to the body of an answer to GET, as it comes, and takes nothing but 200. All of it has to be there after wait.
func (c *Client) Read(ctx context.Context, path string, wait time.Duration, to func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxShown)) // what came of it
		return fmt.Errorf("ask envoy for %s: status %d: %s", path, answer.StatusCode, strings.TrimSpace(string(text)))
	}
	if err := to(answer.Body); err != nil {
		return fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	return nil
}

// maxShown is how much of a refusal is told.
const maxShown = 200

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

// States of an Envoy: Live is that of one that serves, Unreachable that of one that does not answer. Envoy has more words.
const (
	Live        = "LIVE"
	Unreachable = "UNREACHABLE"
)

// State is Envoy's state, such as LIVE or INITIALIZING; UNREACHABLE when it does not say.
func (c *Client) State(ctx context.Context) string {
	_, text, err := c.Call(ctx, http.MethodGet, "/ready", Wait)
	if err != nil {
		return Unreachable
	}
	return strings.TrimSpace(text)
}

// Epoch is State, and which of the Envoys that take each other's place answered: they share a port, and the one that is
// to go answers until the other one has come.
func (c *Client) Epoch(ctx context.Context) (state string, epoch int) {
	text, err := c.OK(ctx, http.MethodGet, "/server_info", Wait)
	if err != nil {
		return Unreachable, 0
	}
	var answer struct {
		State   string `json:"state"`
		Options struct {
			Epoch int `json:"restart_epoch"`
		} `json:"command_line_options"`
	}
	if json.Unmarshal([]byte(text), &answer) != nil {
		return Unreachable, 0
	}
	return answer.State, answer.Options.Epoch
}

// Stats are some of Envoy's counters and gauges, by name.
func (c *Client) Stats(ctx context.Context, names ...string) (map[string]int, error) {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	path := "/stats?format=json&filter=" + url.QueryEscape("^("+strings.Join(quoted, "|")+")$")
	text, err := c.OK(ctx, http.MethodGet, path, Wait)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fmt.Errorf("ask envoy for %s: %w", path, err)
	}
	out := map[string]int{}
	for _, s := range answer.Stats {
		if s.Name != "" {
			out[s.Name] = s.Value
		}
	}
	return out, nil
}

// Drain asks Envoy to drain its listeners, four times at most: who gives up ends it with its requests.
func (c *Client) Drain(ctx context.Context) error {
	const tries = 4
	between := 100 * time.Millisecond
	for i := 1; ; i++ {
		_, err := c.OK(ctx, http.MethodPost, "/drain_listeners?graceful", Wait)
		if err == nil || i == tries {
			return err
		}
		if pause.For(ctx, between) != nil {
			return err
		}
		between = min(2*between, time.Second)
	}
}
