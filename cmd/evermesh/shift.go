package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// backWithin bounds the way back, which goes on after the command was told to end.
const backWithin = time.Minute

func shiftCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "shift ROUTE --to NODE=WEIGHT",
		Short: "Move a route's traffic in steps, and back when a check fails",
		Long: `Move the weights of a route step by step to those of --to, as a pipeline does with
a canary. ROUTE is the ARN of a route, or its short form. Targets that --to does
not name end with 0, and stay in the route; new ones are added.

After each step all proxies that it concerns must have accepted it, as with evermesh
rollout; then it stays for --every, while --check, --check-url or both are asked
again and again. When a check fails, a proxy refuses, a rollout takes longer than
--timeout, or the command is interrupted, the route is put back as it was.

A route that somebody else changes meanwhile is theirs: the command ends and leaves
it as it is.

--check is run by sh; exit code 0 is well. It finds the route's ARN in EVERMESH_ROUTE
and the weights in EVERMESH_WEIGHTS, such as "v1=90 v2=10".

Exit codes: 0 done; 6 the route was put back, and why is on stderr; 1 anything else,
such as a route that was changed by others; 2 wrong usage.`,
		Example: `  evermesh shift mesh/shop/virtualRouter/orders/route/main --to orders-v2=100 \
    --step 10 --every 1m --check './error-rate-below 0.01'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes one route, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE:              shiftRoute,
		ValidArgsFunction: completePath,
	}
	f := c.Flags()
	f.StringSlice("to", nil, "`weights` at the end: NODE=WEIGHT or NODE:PORT=WEIGHT, separated by commas")
	f.Int("step", 10, "`percent` of the way that one step goes")
	f.Duration("every", 30*time.Second, "how `long` each step stays before the next one")
	f.String("check", "", "`command` that ends with 0 while all is well")
	f.String("check-url", "", "`URL` that answers with 2xx while all is well")
	f.Duration("check-every", 5*time.Second, "`time` between two checks, and the longest that one may take")
	f.Int("check-failures", 1, "`number` of failed checks in a row that turn back")
	f.Duration("timeout", 5*time.Minute, "how `long` the proxies may take to accept a step")
	f.Bool("dry-run", false, "print the steps and change nothing")
	outputFlag(c)
	dataDirFlag(c)
	return c
}

// shift is one on its way.
type shift struct {
	c      *cobra.Command
	caller *client.Client
	arn    string
	input  map[string]any // names the route in calls
	spec   map[string]any // as it was
	before weights
	// version is that of the route as this command left it, and sent what it sent last.
	version int64
	sent    map[string]any
	gate    gate
	every   time.Duration
	timeout time.Duration
}

// shifted is what -o json prints.
type shifted struct {
	ResourceARN string         `json:"resourceArn"`
	State       string         `json:"state"` // DONE or PUT_BACK
	Weights     map[string]int `json:"weights"`
	Reason      string         `json:"reason,omitempty"`
}

func shiftRoute(c *cobra.Command, args []string) error {
	f := c.Flags()
	list, _ := f.GetStringSlice("to")
	if len(list) == 0 {
		return usagef("--to is missing: want the weights at the end, such as --to v2=100; see %s --help", c.CommandPath())
	}
	to, err := parseWeights(list)
	if err != nil {
		return usagef("--to: %v", err)
	}
	step, _ := f.GetInt("step")
	if step < 1 || step > 100 {
		return usagef("--step %d: want a number from 1 to 100", step)
	}
	s := &shift{c: c}
	s.every, _ = f.GetDuration("every")
	s.timeout, _ = f.GetDuration("timeout")
	if s.timeout <= 0 || s.every < 0 {
		return usagef("--timeout %s, --every %s: want times to wait, such as 30s", s.timeout, s.every)
	}
	if s.gate, err = gateOf(c); err != nil {
		return err
	}
	of, err := parseTarget(args[0])
	if err != nil {
		return err
	}
	if of.path.Kind != api.KindRoute {
		return usagef("%q is a %s: want a route, such as mesh/shop/virtualRouter/orders/route/main", args[0], of.path.Kind)
	}
	if s.caller, err = connect(c); err != nil {
		return err
	}
	if err := s.read(c.Context(), of); err != nil {
		return err
	}
	steps := s.before.path(to, step)
	if n := len(steps[0]); n > mostTargets {
		return usagef("the route would have %d targets: it may have %d; remove some that have the weight 0 first", n, mostTargets)
	}
	if dry, _ := f.GetBool("dry-run"); dry {
		for i, w := range append([]weights{s.before}, steps...) {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "%d/%d %s\n", i, len(steps), w); err != nil {
				return err
			}
		}
		return nil
	}
	return s.walk(steps)
}

// read finds the route and its weights.
func (s *shift) read(ctx context.Context, of target) error {
	s.input = map[string]any{"meshName": of.path.Mesh, "virtualRouterName": of.path.Parent, "routeName": of.path.Name}
	if of.path.MeshOwner != "" {
		s.input["meshOwner"] = of.path.MeshOwner
	}
	spec, meta, err := s.describe(ctx)
	if err != nil {
		return err
	}
	s.arn, s.version, s.spec = meta.ARN, meta.Version, spec
	targets, err := targetsOf(spec)
	if err != nil {
		return fmt.Errorf("%s: %w", shortForm(s.arn), err)
	}
	s.before = weights{}
	for _, t := range targets {
		s.before[destinationOf(t)] += int(number(t["weight"]))
	}
	if s.before.sum() == 0 {
		return fmt.Errorf("%s: all weights are 0: there is no traffic to move", shortForm(s.arn))
	}
	return nil
}

func (s *shift) describe(ctx context.Context) (map[string]any, api.ResourceMetadata, error) {
	var out struct {
		Route struct {
			Spec     map[string]any       `json:"spec"`
			Metadata api.ResourceMetadata `json:"metadata"`
		} `json:"route"`
	}
	err := s.caller.Call(ctx, "DescribeRoute", s.input, &out)
	return out.Route.Spec, out.Route.Metadata, explained(s.caller, err)
}

// turned is why the route is to be put back.
type turned struct{ reason string }

func (t *turned) Error() string { return t.reason }

// errTheirs is a route that somebody else changed.
var errTheirs = errors.New("somebody else changed the route meanwhile: it is left as it is")

// walk takes the steps, and the way back if one of them fails.
func (s *shift) walk(steps []weights) error {
	ctx := s.c.Context()
	for i, w := range steps {
		s.say("step %d of %d: %s", i+1, len(steps), w)
		err := s.take(ctx, w)
		if err == nil {
			err = s.stay(ctx, w)
		}
		switch {
		case err == nil:
		case errors.Is(err, errTheirs):
			return fmt.Errorf("%s: %w", shortForm(s.arn), err)
		default:
			return s.back(ctx, err)
		}
	}
	if wantsJSON(s.c) {
		return printJSON(s.c.OutOrStdout(), shifted{s.arn, "DONE", named(steps[len(steps)-1]), ""})
	}
	_, err := fmt.Fprintf(s.c.OutOrStdout(), "%s has %s\n", shortForm(s.arn), steps[len(steps)-1])
	return err
}

func (s *shift) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.c.ErrOrStderr(), format+"\n", args...) // progress only
}

// take gives the route the weights and waits until its proxies have them.
func (s *shift) take(ctx context.Context, w weights) error {
	if err := s.mine(ctx); err != nil {
		return err
	}
	if err := s.update(ctx, withWeights(s.spec, w)); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	progress := &progress{w: s.c.ErrOrStderr(), rewrite: isTerminal(s.c.ErrOrStderr())}
	last, err := watchRollout(limit, s.caller, s.arn, progress.show)
	progress.end()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case last != nil && last.State == api.RolloutStateRefused:
		return &turned{fmt.Sprintf("%s refused the step", count(int64(len(last.Refused)), "proxy", "proxies"))}
	case last == nil || last.State != api.RolloutStateDone:
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return explained(s.caller, err)
		}
		return &turned{fmt.Sprintf("the step is not accepted everywhere after %s", s.timeout)}
	}
	return nil
}

// mine says whether the route is still as this command left it.
func (s *shift) mine(ctx context.Context) error {
	_, meta, err := s.describe(ctx)
	if err == nil && meta.Version != s.version {
		return errTheirs
	}
	return err
}

func (s *shift) update(ctx context.Context, spec map[string]any) error {
	in := maps.Clone(s.input)
	in["spec"], s.sent = spec, spec
	var out struct {
		Route struct {
			Metadata api.ResourceMetadata `json:"metadata"`
		} `json:"route"`
	}
	if err := s.caller.Call(ctx, "UpdateRoute", in, &out); err != nil {
		return explained(s.caller, err)
	}
	s.version = out.Route.Metadata.Version
	return nil
}

// stay keeps a step for its time, and asks the gate all the while: at least once.
func (s *shift) stay(ctx context.Context, w weights) error {
	until := time.Now().Add(s.every)
	failures := 0
	for {
		began := time.Now()
		err := s.gate.ask(ctx, s.arn, w)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			failures = 0
		default:
			if failures++; failures >= s.gate.failures {
				return &turned{"the check failed: " + oneLine(err.Error())}
			}
			s.say("the check failed, %d of %d: %s", failures, s.gate.failures, oneLine(err.Error()))
		}
		wait := s.gate.every - time.Since(began)
		left := time.Until(until)
		if failures == 0 && left <= 0 {
			return nil
		}
		if failures == 0 && (s.gate.none() || wait > left) {
			wait = left
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// back puts the route back as it was, also when the command was told to end.
func (s *shift) back(ctx context.Context, why error) error {
	reason := oneLine(why.Error())
	if errors.Is(why, context.Canceled) {
		reason = "interrupted"
	}
	s.say("%s: %s goes back to %s", reason, shortForm(s.arn), s.before)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backWithin)
	defer cancel()
	spec, meta, err := s.describe(ctx)
	// An update whose answer was lost is this command's own, when the route is what was sent and was changed once.
	own := meta.Version == s.version || meta.Version == s.version+1 && reflect.DeepEqual(spec, s.sent)
	switch {
	case err == nil && !own:
		return fmt.Errorf("%s: %s; %w", shortForm(s.arn), reason, errTheirs)
	case err == nil && !reflect.DeepEqual(spec, s.spec):
		err = s.update(ctx, s.spec)
	}
	if err != nil {
		return fmt.Errorf("%s: %s; and it could not be put back: %w: update it by hand to %s", shortForm(s.arn), reason, err, s.before)
	}
	ctx, cancel = context.WithTimeout(ctx, s.timeout)
	defer cancel()
	last, _ := watchRollout(ctx, s.caller, s.arn, func(api.Rollout) {})
	if last == nil || last.State != api.RolloutStateDone {
		s.say("not all proxies have accepted it yet: see evermesh rollout %s", shortForm(s.arn))
	}
	if wantsJSON(s.c) {
		if err := printJSON(s.c.OutOrStdout(), shifted{s.arn, "PUT_BACK", named(s.before), reason}); err != nil {
			return err
		}
	}
	return &exitError{exitPutBack, fmt.Sprintf("%s was put back to %s: %s", shortForm(s.arn), s.before, reason)}
}

func named(w weights) map[string]int {
	out := map[string]int{}
	for d, v := range w {
		out[d.String()] = v
	}
	return out
}
