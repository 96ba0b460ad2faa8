package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/plan"
)

// planWait is how long a plan waits for its turn.
const planWait = 10 * time.Second

// plan tells what a set of changes would do to the resources and to the
// configuration of every proxy (D11). It writes nothing. One plan at a time is
// worked out: a plan for a whole mesh keeps a processor busy.
func (s *Server) plan(ctx context.Context, c *call) (any, error) {
	p := planning{s: s, c: c, seen: map[api.Key]bool{}, out: api.PlanResult{Resources: []api.PlannedResource{}, Proxies: []api.PlannedProxy{}}}
	list, _ := c.doc["changes"].([]any)
	for n, x := range list {
		change, _ := x.(map[string]any)
		if err := p.take(n, change); err != nil {
			return nil, err
		}
	}
	select {
	case s.plans <- struct{}{}:
		defer func() { <-s.plans }()
	case <-time.After(planWait):
		return nil, api.Errorf(api.CodeTooManyRequests, "Other plans are being worked out: try again, with back-off.")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	for _, change := range p.changes {
		if err := s.authorizeSight(ctx, c, change.Key, snapshot.Get(change.Key)); err != nil {
			return nil, err
		}
	}
	c.authorized = true // what nothing was planned for tells nothing
	connected, err := s.connected(ctx, c.principal.Account)
	if err != nil {
		return nil, err
	}
	result, err := plan.On(ctx, snapshot, s.Quotas, p.changes, connected...)
	if err != nil {
		return nil, err
	}
	p.answer(ctx, snapshot, result)
	return p.out, nil
}

// connected are the clients of the account's connected proxies, once for each: what they
// say of themselves, their configuration depends on.
func (s *Server) connected(ctx context.Context, account string) (out []mesh.Client, err error) {
	if s.Ledger == nil {
		return nil, nil // nobody connects
	}
	proxies, _, err := s.Ledger.Proxies(ctx, account)
	if err != nil {
		return nil, err
	}
	for _, p := range proxies {
		a, err := api.ParseARN(p.ResourceARN)
		if err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		out = append(out, mesh.Client{Key: a.Key(""), Traits: mesh.TraitsOf(p.Traits)})
	}
	return out, nil
}

// planning is one plan on its way.
type planning struct {
	s       *Server
	c       *call
	seen    map[api.Key]bool
	changes []plan.Change
	numbers []int // of the changes in the request
	out     api.PlanResult
}

// take reads one change. What the API would refuse is in the answer; what the
// caller may not look at ends the plan.
func (p *planning) take(n int, change map[string]any) error {
	row, _ := api.Kind(text(change, "kind")).Row() // the model allows kinds only
	goes, _ := change["delete"].(bool)
	doc, err := p.read(row, text(change, "input"), goes)
	if err != nil {
		return p.refuse(n, api.Key{Owner: p.c.principal.Account, Kind: row.Kind}, err)
	}
	one := *p.c
	one.doc = doc
	key, err := p.s.addressed(row, &one)
	if refusal, ok := errors.AsType[*api.Error](err); ok && refusal.Code == api.CodeBadRequest {
		return p.refuse(n, key, err)
	}
	if err != nil {
		return err
	}
	if p.seen[key] {
		return p.refuse(n, key, api.Errorf(api.CodeBadRequest, "The resource stands twice among the changes."))
	}
	p.seen[key] = true
	made := plan.Change{Key: key, By: p.c.principal.Account}
	if !goes {
		if made.Now, err = p.resource(n, row, key, &one); err != nil {
			return p.refuse(n, key, err)
		}
	}
	p.changes, p.numbers = append(p.changes, made), append(p.numbers, n)
	return nil
}

// read decodes and checks a create call's input, or of a removal the names.
func (p *planning) read(row api.KindRow, input string, goes bool) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader([]byte(input)))
	dec.UseNumber()
	v, err := model.Decode(dec)
	if err != nil {
		return nil, malformed(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed(errors.New("something follows the JSON object"))
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, malformed(errors.New("it is not a JSON object"))
	}
	shape := "Create" + row.Type + "Input"
	if goes {
		shape = "Delete" + row.Type + "Input"
	}
	if found := p.s.appMesh.Check(shape, doc); len(found) > 0 {
		return nil, refusal(found)
	}
	return doc, nil
}

// resource is what a create call would make.
func (p *planning) resource(n int, row api.KindRow, key api.Key, c *call) (*api.Resource, error) {
	tags, err := newTags(c.doc["tags"])
	if err != nil {
		return nil, err
	}
	document, spec, err := specOf(row, c)
	if err != nil {
		return nil, err
	}
	// Of routes that are alike the older counts: these would be made one after the
	// other.
	now := p.s.Now().Add(time.Duration(n) * time.Microsecond)
	return &api.Resource{Key: key, Version: 1, Created: now, Updated: now, Owner: c.principal.Account, Tags: tags, Document: document, Spec: spec}, nil
}

// refuse puts into the answer that the API would refuse a change. A fault that is
// no refusal comes back.
func (p *planning) refuse(n int, key api.Key, err error) error {
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	p.out.Resources = append(p.out.Resources, api.PlannedResource{
		Action: api.PlanActionRefused, Change: int64(n), ResourceARN: p.s.Realm.ARN(key, key.Owner), Code: &refusal.Code, Message: &refusal.Message,
	})
	return nil
}

func (p *planning) answer(ctx context.Context, snapshot *mesh.Snapshot, result plan.Result) {
	arn := func(k api.Key) string {
		if r := snapshot.Get(k); r != nil {
			return p.s.Realm.ARN(k, r.Owner)
		}
		return p.s.Realm.ARN(k, p.c.principal.Account)
	}
	for i, r := range result.Resources {
		out := api.PlannedResource{Action: r.Action, Change: int64(p.numbers[i]), ResourceARN: arn(r.Key)}
		refusal, refused := errors.AsType[*api.Error](r.Refusal)
		switch {
		case refused:
			out.Code, out.Message = &refusal.Code, &refusal.Message
		case r.Now == nil && r.Action == api.PlanActionNone && snapshot.Get(r.Key) != nil:
			text := "It would not be removed, because others are refused."
			out.Message = &text
		case r.Action == api.PlanActionUpdate:
			text := plan.Difference(plan.YAML(r.Before.Document), plan.YAML(r.Now.Document))
			out.Difference = &text
		}
		p.out.Resources = append(p.out.Resources, out)
	}
	for _, x := range result.Proxies {
		made := proxyOf(x, arn)
		r := snapshot.Get(x.Client.Key)
		if r != nil && r.Owner != p.c.principal.Account && r.Key.Owner != p.c.principal.Account || !p.s.describes(ctx, p.c, x.Client.Key, r) {
			// That proxies would change that are another account's, or that the caller may
			// not have described, concerns the caller; what they have does not.
			made.Traits, made.Connected = nil, nil
			made.Configurations, made.Problems = []api.PlannedConfiguration{}, []api.Problem{}
		}
		p.out.Proxies = append(p.out.Proxies, made)
	}
	p.out.Complete, p.out.Revision = result.Complete, snapshot.Revision()
}

func proxyOf(x plan.Proxy, arn func(api.Key) string) api.PlannedProxy {
	out := api.PlannedProxy{
		ResourceARN: arn(x.Client.Key), Action: x.Action, Configurations: []api.PlannedConfiguration{}, Problems: []api.Problem{},
		Traits: x.Client.Traits.Words(), Connected: &x.Connected,
	}
	for _, c := range x.Configurations {
		one := api.PlannedConfiguration{Action: c.Action, Drains: c.Drains, Effects: c.Effects, Name: c.Name(), Type: c.Type}
		if c.Difference != "" {
			one.Difference = &c.Difference
		}
		out.Drains = out.Drains || one.Drains
		out.Configurations = append(out.Configurations, one)
	}
	for _, p := range x.Problems {
		out.Problems = append(out.Problems, api.Problem{ResourceARN: arn(p.Key), Reason: p.Reason, Message: p.Message})
	}
	return out
}
