//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// Rollout waits until every proxy that the resource concerns accepted its newest version, as `evermesh rollout` does.
// A refusal is an error that says who refused what.
func (c *Control) Rollout(ctx context.Context, arn string) (api.Rollout, error) {
	var last api.Rollout
	for last.State != api.RolloutStateDone {
		err := c.Evermesh.Stream(ctx, "DescribeRollout", map[string]any{"resourceArn": arn, "watch": true}, func(line json.RawMessage) error {
			return json.Unmarshal(line, &last)
		})
		switch {
		case ctx.Err() != nil:
			return last, fmt.Errorf("rollout of %s: %w: %d of %d proxies accepted", arn, ctx.Err(), last.ProxiesAccepted, last.ProxiesAffected)
		case err != nil:
			return last, fmt.Errorf("rollout of %s: %w", arn, err)
		case last.State == api.RolloutStateRefused:
			return last, fmt.Errorf("rollout of %s: %w", arn, refusals(last.Refused))
		}
	}
	return last, nil
}

func refusals(proxies []api.Proxy) error {
	errs := []error{errors.New("refused")}
	for _, p := range proxies {
		for _, t := range p.Types {
			if t.Refusal != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %s", p.ResourceARN, t.Type, t.Refusal.Message))
			}
		}
	}
	return errors.Join(errs...)
}

// Proxies lists the connected proxies of a mesh.
func (c *Control) Proxies(ctx context.Context, mesh string) ([]api.Proxy, error) {
	var out api.ListProxiesOutput
	err := c.Evermesh.Call(ctx, "ListProxies", api.ListProxiesInput{MeshName: mesh}, &out)
	return out.Proxies, err
}

// Accepted is when the last proxy of the node or gateway accepted its newest configuration of a type, by the clock of
// its evermeshd.
func (c *Control) Accepted(ctx context.Context, mesh, arn string, of api.DiscoveryType) (time.Time, error) {
	proxies, err := c.Proxies(ctx, mesh)
	if err != nil {
		return time.Time{}, err
	}
	var last time.Time
	for _, p := range proxies {
		if p.ResourceARN != arn {
			continue
		}
		for _, t := range p.Types {
			if t.Type == of && t.AcceptedAt != nil && t.AcceptedAt.After(last) {
				last = t.AcceptedAt.Time
			}
		}
	}
	if last.IsZero() {
		return last, fmt.Errorf("no proxy of %s accepted a %s", arn, of)
	}
	return last, nil
}
