package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// Result is what became of an item.
type Result struct {
	Item
	Action  Action
	Version int64  // of the resource after it; 0 when it is gone
	ARN     string // of the resource; empty when it is gone, and when that is not known
	// Err is why it was not done; nil when it was.
	Err error
}

const (
	// attempts is how often an item is looked at and written again when somebody
	// else changed it in between, and firstPause the wait before the second; each
	// wait is twice the one before.
	attempts   = 5
	firstPause = 100 * time.Millisecond
)

// ErrNotTried is why an item was not even tried.
var ErrNotTried = errors.New("not tried, because of the failures before")

// Run does what is to be done for all items, in their order (InOrder), and
// returns what became of each. One that is refused because of what others still
// say is tried again after them, for as long as that helps: two files that can
// only change in one order are changed in that order. What is to go is left
// alone when something could not be written: it may still be in use.
//
// err is a failure that ended the run: a control plane that does not answer, or
// credentials that it does not take. What is refused for one item alone is in
// its result.
func (a *Applier) Run(ctx context.Context, items []Item) (results []Result, err error) {
	results = make([]Result, len(items))
	var writes, removals []int
	for n, i := range items {
		results[n] = Result{Item: i, Err: ErrNotTried}
		if i.Doc != nil {
			writes = append(writes, n)
		} else {
			removals = append(removals, n)
		}
	}
	left, err := a.pass(ctx, results, writes)
	if err != nil || len(left) > 0 {
		return results, err
	}
	_, err = a.pass(ctx, results, removals)
	return results, err
}

// pass does the items of those numbers and returns those that are left.
func (a *Applier) pass(ctx context.Context, results []Result, todo []int) (left []int, err error) {
	for len(todo) > 0 {
		left = nil
		for _, n := range todo {
			r := a.settle(ctx, results[n].Item)
			results[n] = r
			switch {
			case r.Err == nil:
				a.tell(r)
			case !ofItself(r.Err):
				a.tell(r)
				return todo, r.Err
			default:
				left = append(left, n)
			}
		}
		if len(left) == len(todo) {
			break // another round would end the same
		}
		todo = left
	}
	for _, n := range left {
		a.tell(results[n])
	}
	return left, nil
}

func (a *Applier) tell(r Result) {
	if a.Done != nil {
		a.Done(r)
	}
}

// ofItself says whether a failure is the item's own: another may succeed.
func ofItself(err error) bool {
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok {
		return false
	}
	switch refusal.Code {
	case api.CodeMissingAuthenticationToken, api.CodeIncompleteSignature, api.CodeUnrecognizedClient, api.CodeInvalidSignature,
		api.CodeExpiredToken, api.CodeTooManyRequests:
		return false
	}
	return refusal.Status() < 500
}

// settle looks at an item and does what is to be done, again when somebody else
// was in between.
func (a *Applier) settle(ctx context.Context, i Item) Result {
	pause := firstPause
	for n := 1; ; n++ {
		state, err := a.Look(ctx, i)
		r := Result{Item: i, Action: state.Action, Version: state.Version, ARN: state.ARN, Err: err}
		if err == nil {
			r.Version, r.ARN, r.Err = a.do(ctx, i, state)
		}
		if r.Err == nil || n == attempts || !crossed(state.Action, r.Err) {
			return r
		}
		if a.Client.Sleep(ctx, pause) != nil {
			return r
		}
		pause *= 2
	}
}

// crossed says whether a refusal may come from somebody else's write since the
// item was looked at: it was created, deleted, or changed at the same moment.
func crossed(action Action, err error) bool {
	code := codeOf(err)
	return code == api.CodeConflict || (code == api.CodeNotFound && (action == Update || action == Tag || action == Unchanged))
}

// do makes the calls for an item and returns the version that it has then, and
// its ARN.
func (a *Applier) do(ctx context.Context, i Item, s State) (version int64, arn string, err error) {
	row, _ := i.Key.Kind.Row()
	version = s.Version
	switch s.Action {
	case Create:
		d, err := a.write(ctx, "Create", row, i.Input())
		return d.Metadata.Version, d.Metadata.ARN, err
	case Delete:
		if _, err := a.write(ctx, "Delete", row, i.names()); err != nil && codeOf(err) != api.CodeNotFound {
			return s.Version, s.ARN, err
		}
		return 0, "", nil
	case Update:
		in := i.names()
		in["spec"] = i.spec()
		d, err := a.write(ctx, "Update", row, in)
		if err != nil {
			return s.Version, s.ARN, err
		}
		version = d.Metadata.Version
	}
	if len(s.Set) > 0 {
		if err := a.Client.Call(ctx, "TagResource", map[string]any{"resourceArn": s.ARN, "tags": s.Set}, nil); err != nil {
			return version, s.ARN, fmt.Errorf("tags: %w", err)
		}
	}
	if len(s.Drop) > 0 {
		if err := a.Client.Call(ctx, "UntagResource", map[string]any{"resourceArn": s.ARN, "tagKeys": s.Drop}, nil); err != nil {
			return version, s.ARN, fmt.Errorf("tags: %w", err)
		}
	}
	return version, s.ARN, nil
}

func (a *Applier) write(ctx context.Context, verb string, row api.KindRow, in map[string]any) (described, error) {
	var out map[string]described
	err := a.Client.Call(ctx, verb+row.Type, in, &out)
	return out[row.Wrapper], err
}
