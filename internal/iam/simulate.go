package iam

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
)

// simulation is what SimulatePrincipalPolicy and SimulateCustomPolicy ask: it is how a
// decision is explained (IAM-041).
type simulation struct {
	set       policy.Set
	sources   map[policy.Layer][]source
	principal policy.Principal
	own       *who // for what the principal has by itself; nil for nobody
}

// inputs parses the policies of an input, which are called PolicyInputList.1 and so
// on.
func inputs(name string, texts []string) (docs []*policy.Document, from []source, err error) {
	for i, text := range texts {
		d, err := policy.Parse(text)
		if err != nil {
			return nil, nil, api.Errorf(iamapi.CodeInvalidInput, "%s.%d: %s", name, i+1, err.Error())
		}
		docs, from = append(docs, d), append(from, source{fromInput, fmt.Sprintf("%s.%d", name, i+1)})
	}
	return docs, from, nil
}

func (s *simulation) add(policies, boundaries []string, resource string) error {
	docs, from, err := inputs("PolicyInputList", policies)
	if err != nil {
		return err
	}
	s.set.Identity, s.sources[policy.Identity] = append(slices.Clone(s.set.Identity), docs...), append(slices.Clone(s.sources[policy.Identity]), from...)
	if docs, from, err = inputs("PermissionsBoundaryPolicyInputList", boundaries); err != nil {
		return err
	}
	switch len(docs) {
	case 0:
	case 1:
		s.set.Boundary, s.sources[policy.Boundary] = docs[0], from
	default:
		return api.Errorf(iamapi.CodeInvalidInput, "PermissionsBoundaryPolicyInputList may have one policy.")
	}
	if resource == "" {
		return nil
	}
	if docs, _, err = inputs("ResourcePolicy", []string{resource}); err != nil {
		return err
	}
	s.set.Resource, s.sources[policy.Resource] = docs[0], []source{{"resource", "ResourcePolicy"}}
	return nil
}

// simulateCustom simulates policies of the input alone.
func (d *desk) simulateCustom(in *iamapi.SimulateCustomPolicyRequest) (*iamapi.SimulatePolicyResponse, error) {
	if err := d.allow("*"); err != nil {
		return nil, err
	}
	s := &simulation{sources: map[policy.Layer][]source{}, principal: policy.Principal{Account: d.account, ARN: in.CallerARN}}
	if err := s.add(in.PolicyInputList, in.PermissionsBoundaryPolicyInputList, in.ResourcePolicy); err != nil {
		return nil, err
	}
	return s.run(in.ActionNames, in.ResourceARNs, in.ContextEntries, in.ResourceOwner, in.Marker, in.MaxItems)
}

// simulatePrincipal simulates what counts for a user, group or role, as the store has
// it now, with the policies of the input beside.
func (d *desk) simulatePrincipal(in *iamapi.SimulatePrincipalPolicyRequest) (*iamapi.SimulatePolicyResponse, error) {
	account, of, _, name, ok := ParseARN(in.PolicySourceARN)
	if !ok || kind(of) != userKind && kind(of) != groupKind && kind(of) != roleKind {
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Invalid ARN: %s. It must be that of a user, group or role.", in.PolicySourceARN)
	}
	if err := d.allow(in.PolicySourceARN); err != nil {
		return nil, err
	}
	i, err := read[identity](d, recordTail(account, of, name))
	if err != nil {
		return nil, err
	}
	if i == nil || account != d.account || d.identityARN(kind(of), i) != in.PolicySourceARN {
		return nil, absent("The %s with name %s cannot be found.", of, name)
	}
	s, err := d.simulationOf(kind(of), i)
	if err != nil {
		return nil, err
	}
	s.without(in.PolicyExclusionList)
	if err := s.add(in.PolicyInputList, in.PermissionsBoundaryPolicyInputList, in.ResourcePolicy); err != nil {
		return nil, err
	}
	return s.run(in.ActionNames, in.ResourceARNs, in.ContextEntries, in.ResourceOwner, in.Marker, in.MaxItems)
}

// simulationOf gathers an identity's policies, fresh from the store, as the directory
// does.
func (d *desk) simulationOf(k kind, i *identity) (*simulation, error) {
	t := newTenant()
	m := &member{identity: *i, arn: d.identityARN(k, i)}
	fill := func(k kind, m *member) {
		for _, p := range m.Inline {
			m.inline = append(m.inline, &document{source: source{sourceKind(k), string(k) + "_" + m.Name + "_" + p.Name}, text: p.Document})
		}
	}
	fill(k, m)
	wanted := slices.Clone(i.Attached)
	for _, name := range i.Groups {
		g, err := read[identity](d, recordTail(d.account, string(groupKind), name))
		if err != nil {
			return nil, err
		}
		if g != nil {
			group := &member{identity: *g, arn: d.identityARN(groupKind, g)}
			fill(groupKind, group)
			t.members[groupKind][name] = group
			wanted = append(wanted, g.Attached...)
		}
	}
	for _, arn := range append(wanted, i.Boundary) {
		if arn == "" {
			continue
		}
		p, err := d.lookPolicy(arn)
		if err != nil {
			return nil, err
		}
		if p != nil {
			v, _ := p.version("")
			t.policies[arn] = &document{source: source{fromUserManaged, arn}, text: v.Document}
		}
	}
	g := d.keys.directory.grantsOf(t, m)
	p := auth.Principal{Account: d.account, ARN: m.arn, ID: i.ID}
	w := &who{principal: p, tags: i.Tags, organizationOf: d.keys.directory.organizations()}
	if k == userKind {
		w.principal.Type, w.name = auth.User, i.Name
	}
	return &simulation{
		set: g.set, sources: map[policy.Layer][]source{policy.Identity: g.sources, policy.Boundary: {g.boundary}},
		principal: principalOf(p), own: w,
	}, nil
}

// without leaves policies out.
func (s *simulation) without(excluded []iamapi.PolicyIdentifier) {
	var docs []*policy.Document
	var from []source
	for i, x := range s.sources[policy.Identity] {
		if !slices.ContainsFunc(excluded, func(e iamapi.PolicyIdentifier) bool {
			if in := e.InlinePolicyIdentifier; in != nil {
				return x.name == strings.ToLower(string(in.AttachmentType))+"_"+in.AttachmentName+"_"+in.PolicyName
			}
			return e.PolicyARN == x.name
		}) {
			docs, from = append(docs, s.set.Identity[i]), append(from, x)
		}
	}
	s.set.Identity, s.sources[policy.Identity] = docs, from
}

// simulatedMost bounds one call.
const simulatedMost = 10_000

func (s *simulation) run(actions, resources []string, context []iamapi.ContextEntry, owner, marker string, most *int64) (*iamapi.SimulatePolicyResponse, error) {
	if len(resources) == 0 {
		resources = []string{"*"}
	}
	if len(actions)*len(resources) > simulatedMost {
		return nil, api.Errorf(iamapi.CodeInvalidInput, "ActionNames and ResourceArns make more than %d questions: ask in parts.", simulatedMost)
	}
	given := policy.Map{}
	for _, e := range context {
		given[policy.KeyName(e.ContextKeyName)] = e.ContextKeyValues
	}
	if n, ok := api.ParseResourceName(owner); ok {
		owner = n.Account
	}
	var results []numbered
	for _, action := range actions {
		if !strings.Contains(action, ":") {
			return nil, api.Errorf(iamapi.CodeInvalidInput, "Invalid Action name: %s. It must be of the form service:Operation.", action)
		}
		for _, resource := range resources {
			keys := policy.Layers{given} // what is asked for stands before what is so
			if s.own != nil {
				keys = append(keys, asked{s.own, resource, owner}, direct{})
			}
			r := policy.Request{Principal: s.principal, Action: action, Resource: resource, Owner: owner, Keys: keys}
			results = append(results, numbered{len(results), s.result(r)})
		}
	}
	results, p, err := cut(results, func(n numbered) string { return fmt.Sprintf("%06d", n.at) }, marker, most)
	if err != nil {
		return nil, err
	}
	out := &iamapi.SimulatePolicyResponse{IsTruncated: p.Truncated, Marker: p.Marker}
	for _, n := range results {
		out.EvaluationResults = append(out.EvaluationResults, n.EvaluationResult)
	}
	return out, nil
}

type numbered struct {
	at int
	iamapi.EvaluationResult
}

// result is the decision on one request, with the statements that made it.
func (s *simulation) result(r policy.Request) iamapi.EvaluationResult {
	d, findings := policy.Explain(r, s.set)
	out := iamapi.EvaluationResult{EvalActionName: r.Action, EvalResourceName: r.Resource, EvalDecision: iamapi.PolicyEvaluationDecisionType(d.Outcome.String())}
	for _, f := range findings {
		if f.Missed == "" && (f.Statement.Effect == policy.Deny || d.Outcome != policy.ExplicitDeny) {
			out.MatchedStatements = append(out.MatchedStatements, s.statement(f))
		}
	}
	if s.set.Boundary != nil {
		bound := policy.Evaluate(r, policy.Set{Identity: []*policy.Document{s.set.Boundary}}).Outcome == policy.Allowed
		out.PermissionsBoundaryDecisionDetail = &iamapi.PermissionsBoundaryDecisionDetail{AllowedByPermissionsBoundary: &bound}
	}
	for _, docs := range [][]*policy.Document{s.set.Identity, {s.set.Boundary}, {s.set.Resource}} {
		for _, doc := range docs {
			if doc == nil {
				continue
			}
			for _, key := range doc.ContextKeys() {
				if len(r.Keys.Lookup(key)) == 0 && !slices.Contains(out.MissingContextValues, key) {
					out.MissingContextValues = append(out.MissingContextValues, key)
				}
			}
		}
	}
	return out
}

func (s *simulation) statement(f policy.Finding) iamapi.Statement {
	from := source{fromInput, string(f.Layer)}
	if known := s.sources[f.Layer]; f.Document < len(known) {
		from = known[f.Document]
	}
	return iamapi.Statement{
		SourcePolicyID: &from.name, SourcePolicyType: iamapi.PolicySourceType(from.kind),
		StartPosition: place(f.Statement.Start()), EndPosition: place(f.Statement.End()),
	}
}

func place(p policy.Position) *iamapi.Position {
	line, column := int64(p.Line), int64(p.Column)
	return &iamapi.Position{Line: &line, Column: &column}
}
