package intercept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Installed is what [Install] did.
type Installed struct {
	Backend Backend  // whose rules are in force
	Found   []string // the tools in which rules of an earlier run were, by name: "nft", "iptables", "ip6tables", …
	// HalfDone says that what was found cannot be the work of a run that came to its end: rules of two back ends at
	// once, or of IPv6 alone. It is mended now.
	HalfDone bool
}

// Install installs cfg with the first back end that can, and takes away what the others and the machine's further ones
// hold, or both would redirect. All of it is one transaction: where a step fails, every back end is as it was before, and
// the error says which step.
func Install(ctx context.Context, backends []Backend, cfg Config) (Installed, error) {
	all := withFurther(backends)
	var errs []error
	for _, b := range backends {
		steps := b.steps(&cfg)
		for _, other := range all {
			if !same(b, other) {
				steps = append(steps, optional(other.steps(nil))...)
			}
		}
		found, err := transact(ctx, steps)
		if err == nil {
			return Installed{b, found, halfDone(found)}, nil
		}
		errs = append(errs, err)
		if _, ok := errors.AsType[*ForeignError](err); ok || ctx.Err() != nil {
			break
		}
	}
	return Installed{}, errors.Join(errs...)
}

// withFurther appends the machine's other back ends to those that somebody chose.
func withFurther(chosen []Backend) []Backend {
	all := slices.Clone(chosen)
	found, _ := Find("auto") // without tools there are none
	for _, b := range found {
		if !slices.ContainsFunc(all, func(other Backend) bool { return same(b, other) }) {
			all = append(all, b)
		}
	}
	return all
}

// same says whether both hold the same rules: iptables may be iptables-nft by another name.
func same(a, b Backend) bool {
	x, ok := a.(iptables)
	y, too := b.(iptables)
	return ok == too && x.legacy == y.legacy
}

// Uninstall removes what any of the back ends holds, or nothing where one of them fails. It returns the tools in which there was
// something, by name. An error says that none of the back ends could list its rules, or that a step failed.
func Uninstall(ctx context.Context, backends []Backend) (found []string, err error) {
	var steps []step
	var errs []error
	for _, b := range backends {
		own := b.steps(nil)
		if _, err := own[0].unit.look(ctx); err != nil {
			errs = append(errs, err) // a back end that cannot run here left nothing
			continue
		}
		steps = append(steps, own...)
	}
	if len(steps) == 0 {
		return nil, errors.Join(errs...)
	}
	return transact(ctx, steps)
}

// Verify reads the rules that are there, and says in its error how they differ from those that cfg asks for. It
// returns the back end whose rules they are. It changes nothing.
func Verify(ctx context.Context, backends []Backend, cfg Config) (Backend, error) {
	var used Backend
	var problems []error
	for _, b := range backends {
		wanted := b.wanted(cfg)
		held := false
		var wrong []error
		for i, s := range b.steps(nil) {
			h, err := s.unit.look(ctx)
			if err != nil && (i > 0 && !cfg.IPv6 || len(backends) > 1) {
				continue
			}
			if err != nil {
				return nil, err
			}
			held = held || len(h.own) > 0
			if missing := difference(wanted[i], s.unit.canonical(h)); missing != "" {
				wrong = append(wrong, fmt.Errorf("%s: %s", s.unit.name(), missing))
			}
		}
		switch {
		case !held:
		case used != nil:
			problems = append(problems, fmt.Errorf("both %s and %s hold rules: run intercept again", used.Name(), b.Name()))
		default:
			used = b
			problems = append(problems, wrong...)
		}
	}
	if used == nil {
		return nil, errors.New("there are no rules of ours in this network namespace: run evermesh-agent intercept")
	}
	return used, errors.Join(problems...)
}

// difference names the first line in which what is there is not what is wanted.
func difference(want, got []string) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%q is missing", want[i])
		case i >= len(want):
			return fmt.Sprintf("%q was not asked for", got[i])
		case want[i] != got[i]:
			return fmt.Sprintf("%q should be %q", got[i], want[i])
		}
	}
	return ""
}

// optional is steps of back ends that are not the one in use.
func optional(steps []step) []step {
	for i := range steps {
		steps[i].optional = true
	}
	return steps
}

// halfDone looks at the tools that held rules: a whole run leaves one of nft, iptables, iptables and ip6tables.
func halfDone(found []string) bool {
	switch len(found) {
	case 0:
		return false
	case 1:
		return strings.HasPrefix(found[0], "ip6")
	case 2:
		return found[1] != "ip6"+strings.TrimPrefix(found[0], "ip")
	}
	return true
}
