package iam

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

// attachedPer is how many managed policies an identity may have.
const attachedPer = 10

// inlineSize is how large all inline policies of an identity may be together.
func inlineSize(k kind) int {
	return map[kind]int{userKind: 2048, groupKind: 5120, roleKind: 10240}[k]
}

func ofPolicy(arn string) map[string][]string { return map[string][]string{"iam:policyarn": {arn}} }

func (d *desk) attach(k kind, name, arn string) (*nothing, error) {
	i, err := d.bounded(k, name, ofPolicy(arn))
	if err != nil {
		return nil, err
	}
	m, err := d.lookPolicy(arn)
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, absent("Policy %s does not exist or is not attachable.", arn)
	}
	if b := findBuiltin(d.keys.builtin, arn); b != nil && b.linkedOnly() {
		return nil, api.Errorf(iamapi.CodePolicyNotAttachable, "Cannot attach a Service Role Policy to a Customer Role.")
	}
	switch {
	case slices.Contains(i.Attached, arn):
		return &nothing{}, nil
	case len(i.Attached) >= attachedPer:
		return nil, exceeded("PoliciesPer"+k.title(), attachedPer)
	}
	i.Attached = append(i.Attached, arn)
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) detach(k kind, name, arn string) (*nothing, error) {
	i, err := d.bounded(k, name, ofPolicy(arn))
	if err != nil {
		return nil, err
	}
	at := slices.Index(i.Attached, arn)
	if at < 0 {
		return nil, absent("Policy %s was not found.", arn)
	}
	i.Attached = slices.Delete(i.Attached, at, at+1)
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) attached(k kind, name, pathPrefix, marker string, most *int64) ([]iamapi.AttachedPolicy, page, error) {
	i, err := d.identity(k, name)
	if err != nil {
		return nil, page{}, err
	}
	list := []iamapi.AttachedPolicy{}
	for _, arn := range i.Attached {
		if _, _, path, name, ok := ParseARN(arn); ok && strings.HasPrefix(path, pathPrefix) {
			list = append(list, iamapi.AttachedPolicy{PolicyARN: arn, PolicyName: name})
		}
	}
	return cut(list, func(p iamapi.AttachedPolicy) string { return p.PolicyARN }, marker, most)
}

func (d *desk) putInline(k kind, name, policyName, document string) (*nothing, error) {
	i, err := d.bounded(k, name)
	if err != nil {
		return nil, err
	}
	if err := checkDocument(document); err != nil {
		return nil, err
	}
	i.Inline = slices.DeleteFunc(i.Inline, func(p inline) bool { return strings.EqualFold(p.Name, policyName) })
	i.Inline = append(i.Inline, inline{policyName, document})
	total := 0
	for _, p := range i.Inline {
		total += size(p.Document)
	}
	if limit := inlineSize(k); total > limit {
		return nil, api.Errorf(iamapi.CodeLimitExceeded, "Maximum policy size of %d bytes exceeded for %s %s", limit, k, i.Name)
	}
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (i *identity) inline(k kind, policyName string) (inline, error) {
	at := slices.IndexFunc(i.Inline, func(p inline) bool { return strings.EqualFold(p.Name, policyName) })
	if at < 0 {
		return inline{}, absent("The %s policy with name %s cannot be found.", k, policyName)
	}
	return i.Inline[at], nil
}

func (d *desk) getInline(k kind, name, policyName string) (*identity, inline, error) {
	i, err := d.identity(k, name)
	if err != nil {
		return nil, inline{}, err
	}
	p, err := i.inline(k, policyName)
	return i, p, err
}

func (d *desk) deleteInline(k kind, name, policyName string) (*nothing, error) {
	i, err := d.bounded(k, name)
	if err != nil {
		return nil, err
	}
	p, err := i.inline(k, policyName)
	if err != nil {
		return nil, err
	}
	i.Inline = slices.DeleteFunc(i.Inline, func(x inline) bool { return x == p })
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) inlineNames(k kind, name, marker string, most *int64) ([]string, page, error) {
	i, err := d.identity(k, name)
	if err != nil {
		return nil, page{}, err
	}
	names := []string{}
	for _, p := range i.Inline {
		names = append(names, p.Name)
	}
	return cut(names, func(n string) string { return n }, marker, most)
}

// checkBoundary refuses a permissions boundary that is no policy.
func (d *desk) checkBoundary(arn string) error {
	if arn == "" {
		return nil
	}
	m, err := d.lookPolicy(arn)
	if err == nil && m == nil {
		err = absent("Scope ARN: %s does not exist or is not attachable.", arn)
	}
	return err
}

func (d *desk) setBoundary(k kind, name, arn string) (*nothing, error) {
	i, err := d.changeable(k, name, map[string][]string{"iam:permissionsboundary": {arn}})
	if err != nil {
		return nil, err
	}
	if err := d.checkBoundary(arn); err != nil {
		return nil, err
	}
	i.Boundary = arn
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) clearBoundary(k kind, name string) (*nothing, error) {
	i, err := d.bounded(k, name)
	if err != nil {
		return nil, err
	}
	if i.Boundary == "" {
		return nil, absent("%s %s does not have a permissions boundary.", k.title(), i.Name)
	}
	i.Boundary = ""
	d.putIdentity(k, i)
	return &nothing{}, nil
}
