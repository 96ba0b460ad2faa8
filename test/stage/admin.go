//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Readiness is what /readyz says.
type Readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// Readiness asks the evermeshd whether it can serve; an error is no answer at all.
func (c *Control) Readiness(ctx context.Context) (r Readiness, err error) {
	text, err := c.admin(ctx, "/readyz")
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
}

// Metric is the sum of the metric's samples over all labels; 0 for one that has none.
func (c *Control) Metric(ctx context.Context, name string) (float64, error) {
	text, err := c.admin(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	var sum float64
	for line := range strings.Lines(text) {
		of, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if labelled, _, _ := strings.Cut(of, "{"); !ok || labelled != name {
			continue
		}
		// Label values of ours have no spaces.
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			return 0, fmt.Errorf("read %s of %s: %w", name, c.Name, err)
		}
		sum += v
	}
	return sum, nil
}

// admin is the answer of the administration interface, whatever its status.
func (c *Control) admin(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Admin+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", c.Name, err)
	}
	resp, err := c.readiness.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", c.Name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("ask %s for %s: %w", c.Name, path, err)
	}
	return string(text), nil
}
