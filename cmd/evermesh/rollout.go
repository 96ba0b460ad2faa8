package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// askEvery is how long one watch lives. It tells at once what its replica
// notices; what other replicas do is noticed by asking anew.
const askEvery = time.Second

func rolloutCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rollout ARN",
		Short: "Wait until every affected proxy accepted a resource's newest version",
		Long: `Wait until every proxy that a resource concerns accepted its newest version, on
every replica of the control plane. ARN may be in its short form, such as
mesh/shop/virtualRouter/orders/route/main.

A replica that is silent counts as unknown, never as done. Progress goes to
stderr, the result to stdout.

What of the resource could not be translated for some proxy is named on stderr,
a line each; the rest of it is in effect all the same.

Exit codes: 0 done; 3 a proxy refused the configuration (it keeps its last good
one; Envoy's own words are printed), or lacks a certificate, a key or authorities
of the node or gateway (SecretRefused, SecretDenied: they are tried again by
themselves); 4 not done within --timeout; 2 wrong usage; 1 anything else.`,
		Example: `  aws appmesh update-route --cli-input-json file://route.json &&
    evermesh rollout mesh/shop/virtualRouter/orders/route/main --timeout 2m`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes one ARN, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE:              rollout,
		ValidArgsFunction: completePath,
	}
	outputFlag(c)
	dataDirFlag(c)
	c.Flags().Duration("timeout", 5*time.Minute, "how `long` to wait")
	return c
}

func rollout(c *cobra.Command, args []string) error {
	timeout, _ := c.Flags().GetDuration("timeout")
	if timeout <= 0 {
		return usagef("--timeout %s is not a time to wait: want one above 0, such as 2m", timeout)
	}
	of, err := parseTarget(args[0])
	if err != nil {
		return err
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), timeout)
	defer cancel()
	arn, err := of.resolve(ctx, caller)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return noAnswer(caller, timeout, err)
		}
		return err
	}
	progress := &progress{w: c.ErrOrStderr(), rewrite: isTerminal(c.ErrOrStderr())}
	last, err := watchRollout(ctx, caller, arn, progress.show)
	progress.end()
	if last == nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return noAnswer(caller, timeout, err)
		}
		return explained(caller, err)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return explained(caller, err)
	}
	return report(c, *last, timeout)
}

func noAnswer(c *client.Client, timeout time.Duration, err error) error {
	return &exitError{exitTimeout, fmt.Sprintf("%s gave no answer within %s (%v): see whether the control plane is well, or raise --timeout", c.Endpoint, timeout, err)}
}

// watchRollout follows a rollout until it is settled or ctx ends, and returns
// the last that was told of it, if anything was.
func watchRollout(ctx context.Context, c *client.Client, arn string, show func(api.Rollout)) (*api.Rollout, error) {
	var last *api.Rollout
	var trouble error // of the attempt before
	for {
		began := time.Now()
		watch, cancel := context.WithTimeout(ctx, askEvery)
		err := c.Stream(watch, "DescribeRollout", map[string]any{"resourceArn": arn, "watch": true}, func(line json.RawMessage) error {
			var now api.Rollout
			if err := json.Unmarshal(line, &now); err != nil {
				return fmt.Errorf("read rollout: %w", err)
			}
			last = &now
			show(now)
			return nil
		})
		over := watch.Err() != nil
		cancel()
		var refusal *api.Error
		switch {
		case last != nil && last.State != api.RolloutStateWaiting:
			return last, nil
		case ctx.Err() != nil:
			return last, ended(ctx, trouble)
		case errors.As(err, &refusal) && refusal.Status() < 500 && refusal.Code != api.CodeTooManyRequests:
			return last, err
		case err != nil && last == nil && !over:
			return nil, err // it never worked: there is nothing to wait for
		}
		// A replica that went away may come back, or another answer instead.
		trouble = err
		if pause(ctx, askEvery-time.Since(began)) != nil {
			return last, ended(ctx, trouble)
		}
	}
}

// ended is the end of the wait, with what went wrong last.
func ended(ctx context.Context, trouble error) error {
	if trouble == nil || errors.Is(trouble, context.DeadlineExceeded) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ctx.Err(), trouble)
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// report prints how a rollout ended and makes the exit code of it.
func report(c *cobra.Command, r api.Rollout, timeout time.Duration) error {
	if wantsJSON(c) {
		if err := printJSON(c.OutOrStdout(), r); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%s version %d", shortForm(r.ResourceARN), r.ResourceVersion)
	var problems []string
	for _, p := range r.Problems {
		problems = append(problems, fmt.Sprintf("%s: %s: %s", shortForm(p.ResourceARN), p.Reason, p.Message))
	}
	if err := complain(c.ErrOrStderr(), problems); err != nil {
		return err
	}
	switch r.State {
	case api.RolloutStateDone:
		if slices.ContainsFunc(r.Problems, ofSecret) {
			return &exitError{exitRefused, what + " is accepted, but proxies lack secrets that it names: what needs them does not act until what is told above is put right; they are tried again by themselves"}
		}
		if wantsJSON(c) {
			return nil
		}
		text := fmt.Sprintf("%s is accepted by %s", what, count(r.ProxiesAffected, "proxy", "proxies"))
		if r.ProxiesAffected == 0 {
			text = what + " is published; no connected proxy needs it"
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), text)
		return err
	case api.RolloutStateRefused:
		for _, p := range r.Refused {
			if err := complain(c.ErrOrStderr(), refusals(p)); err != nil {
				return err
			}
		}
		return &exitError{exitRefused, fmt.Sprintf("%s is refused by %s of %d: they keep what they had; correct the resource and update it", what, count(int64(len(r.Refused)), "proxy", "proxies"), r.ProxiesAffected)}
	}
	var waiting []string
	for _, p := range r.Waiting {
		waiting = append(waiting, fmt.Sprintf("%s instance %s on replica %s has not answered", shortForm(p.ResourceARN), shortInstance(p.Instance), p.Replica))
	}
	if err := complain(c.ErrOrStderr(), append(waiting, r.Unknown...)); err != nil {
		return err
	}
	return &exitError{exitTimeout, fmt.Sprintf("%s is not accepted everywhere after %s: %s; see evermesh proxies", what, timeout, tally(r))}
}

// ofSecret says whether a problem is that a proxy lacks a certificate, a key or
// authorities: Envoy refused them, or they are not given to it.
func ofSecret(p api.Problem) bool { return p.Reason == "SecretRefused" || p.Reason == "SecretDenied" }

func complain(w io.Writer, lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "evermesh: %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// tally is a rollout in a few words.
func tally(r api.Rollout) string {
	text := fmt.Sprintf("%d of %s accepted, %d of %s current", r.ProxiesAccepted, count(r.ProxiesAffected, "proxy", "proxies"),
		r.ReplicasApplied, count(r.ReplicasTotal, "replica", "replicas"))
	if len(r.Refused) > 0 {
		text += fmt.Sprintf(", %d refused", len(r.Refused))
	}
	if len(r.Unknown) > 0 {
		text += fmt.Sprintf(", %d unknown", len(r.Unknown))
	}
	return text
}

// progress shows how a rollout goes: one line that is rewritten on a terminal,
// a line for every change elsewhere.
type progress struct {
	w       io.Writer
	rewrite bool
	last    string
}

func (p *progress) show(r api.Rollout) {
	text := fmt.Sprintf("%s version %d: %s", shortForm(r.ResourceARN), r.ResourceVersion, tally(r))
	if text == p.last {
		return
	}
	if p.rewrite {
		_, _ = fmt.Fprintf(p.w, "\r%s%s", text, strings.Repeat(" ", max(0, len(p.last)-len(text)))) // progress only
	} else {
		_, _ = fmt.Fprintln(p.w, text) // progress only
	}
	p.last = text
}

func (p *progress) end() {
	if p.rewrite && p.last != "" {
		_, _ = fmt.Fprintln(p.w) // progress only
	}
}
