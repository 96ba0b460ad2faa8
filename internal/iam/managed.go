package iam

import (
	"slices"
	"strings"
	"unicode"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/policy"
)

// AWS's limits on policies: characters that are not white space.
const (
	managedSize       = 6144
	trustSize         = 2048
	versionsPerPolicy = 5
)

// size is a policy's size as AWS counts it.
func size(document string) (n int) {
	for _, r := range document {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	return n
}

// checkDocument refuses what is no policy for an identity.
func checkDocument(text string) error {
	d, err := policy.Parse(text)
	if err == nil {
		err = d.ForIdentity()
	}
	if err != nil {
		return malformed(err)
	}
	return nil
}

func (d *desk) policyARN(m *managed) string { return d.arn(d.account, "policy", m.Path, m.Name) }

func (d *desk) putPolicy(m *managed) {
	d.put(managedType(), recordTail(d.account, policyRecord, m.Name), m)
}

// lookPolicy finds a policy by its ARN, one of the account's or of AWS's; nil for
// none.
func (d *desk) lookPolicy(arn string) (*managed, error) {
	account, kind, path, name, ok := ParseARN(arn)
	if !ok || !strings.HasPrefix(arn, "arn:"+d.partition+":") {
		return nil, api.Errorf(iamapi.CodeInvalidInput, "ARN %s is not valid.", arn)
	}
	if account == builtinAccount {
		if b := findBuiltin(d.keys.builtin, arn); b != nil {
			return b.copied(), nil
		}
		return nil, nil
	}
	if account != d.account || kind != "policy" {
		return nil, nil
	}
	m, err := read[managed](d, recordTail(d.account, policyRecord, name))
	if m == nil || m.Path != path || m.Name != name { // ARNs have case
		return nil, err
	}
	return m, nil
}

// anyPolicy is a policy of the account or of AWS's, on which the call is asked for.
func (d *desk) anyPolicy(arn string, layers ...map[string][]string) (*managed, error) {
	m, err := d.lookPolicy(arn)
	if err != nil {
		return nil, err
	}
	if m != nil {
		layers = append(layers, ofTags(m.Tags))
	}
	if err := d.allow(arn, layers...); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, absent("Policy %s was not found.", arn)
	}
	return m, nil
}

// ownPolicy is anyPolicy for a call that changes it: AWS's are not edited (IAM-026).
func (d *desk) ownPolicy(arn string, layers ...map[string][]string) (*managed, error) {
	m, err := d.anyPolicy(arn, layers...)
	if account, _, _, _, _ := ParseARN(arn); err == nil && account == builtinAccount {
		return nil, api.Errorf(api.CodeAccessDenied, "Policy is outside your own account.")
	}
	return m, err
}

// uses counts what a policy is attached to, and what it bounds.
type uses struct{ attached, bounds map[string]int64 }

func (d *desk) uses() (uses, error) {
	u := uses{map[string]int64{}, map[string]int64{}}
	for _, k := range []kind{userKind, groupKind, roleKind} {
		list, err := all[identity](d, recordsTail(d.account, string(k)))
		if err != nil {
			return u, err
		}
		for _, i := range list {
			for _, arn := range i.Attached {
				u.attached[arn]++
			}
			if i.Boundary != "" {
				u.bounds[i.Boundary]++
			}
		}
	}
	return u, nil
}

// policy is how a managed policy is told; full has what only single ones show.
func (d *desk) policy(arn string, m *managed, u uses, full bool) *iamapi.Policy {
	attachable := m.Path != "/aws-service-role/" || !strings.HasPrefix(arn, "arn:"+d.partition+":iam::"+builtinAccount+":")
	attached, bounds, id := u.attached[arn], u.bounds[arn], m.Default
	p := &iamapi.Policy{
		ARN: arn, AttachmentCount: &attached, PermissionsBoundaryUsageCount: &bounds, CreateDate: timestamp(m.Created), UpdateDate: timestamp(m.Updated),
		DefaultVersionID: &id, IsAttachable: &attachable, Path: m.Path, PolicyID: m.ID, PolicyName: m.Name,
	}
	if full {
		p.Description, p.Tags = m.Description, tagList(m.Tags)
	}
	return p
}

func (d *desk) createPolicy(in *iamapi.CreatePolicyRequest) (*iamapi.CreatePolicyResponse, error) {
	path, err := checkPath(in.Path)
	if err != nil {
		return nil, err
	}
	m := &managed{Name: in.PolicyName, Path: path, Created: d.stamp(), Description: in.Description, Default: "v1", Next: 2}
	m.Updated = m.Created
	if err := d.allowNew(d.policyARN(m), "iam:TagPolicy", in.Tags); err != nil {
		return nil, err
	}
	if err := checkDocument(in.PolicyDocument); err != nil {
		return nil, err
	}
	if size(in.PolicyDocument) > managedSize {
		return nil, exceeded("PolicySize", managedSize)
	}
	if d.Record(recordTail(d.account, policyRecord, m.Name)) != nil {
		return nil, taken("A policy called %s already exists. Duplicate names are not allowed.", m.Name)
	}
	if m.Tags, err = withTags(nil, in.Tags); err != nil {
		return nil, err
	}
	if m.ID, err = newID(policyID); err != nil {
		return nil, err
	}
	m.Versions = []version{{ID: "v1", Created: m.Created, Document: in.PolicyDocument}}
	d.putPolicy(m)
	return &iamapi.CreatePolicyResponse{Policy: d.policy(d.policyARN(m), m, uses{}, true)}, nil
}

func (d *desk) getPolicy(in *iamapi.GetPolicyRequest) (*iamapi.GetPolicyResponse, error) {
	m, err := d.anyPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	u, err := d.uses()
	if err != nil {
		return nil, err
	}
	return &iamapi.GetPolicyResponse{Policy: d.policy(in.PolicyARN, m, u, true)}, nil
}

func (d *desk) deletePolicy(in *iamapi.DeletePolicyRequest) (*nothing, error) {
	m, err := d.ownPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	u, err := d.uses()
	switch {
	case err != nil:
		return nil, err
	case u.attached[in.PolicyARN] > 0 || u.bounds[in.PolicyARN] > 0:
		return nil, conflict("Cannot delete a policy attached to entities.")
	case len(m.Versions) > 1:
		return nil, conflict("This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.")
	}
	d.remove(managedType(), recordTail(d.account, policyRecord, m.Name))
	return &nothing{}, nil
}

// listPolicies lists the account's, AWS's, or both.
func (d *desk) listPolicies(in *iamapi.ListPoliciesRequest) (*iamapi.ListPoliciesResponse, error) {
	if err := d.allowList("policy", in.PathPrefix); err != nil {
		return nil, err
	}
	u, err := d.uses()
	if err != nil {
		return nil, err
	}
	var list []*iamapi.Policy
	if in.Scope != iamapi.PolicyScopeTypeAWS {
		own, err := all[managed](d, recordsTail(d.account, policyRecord))
		if err != nil {
			return nil, err
		}
		for _, m := range own {
			list = append(list, d.policy(d.policyARN(m), m, u, false))
		}
	}
	if in.Scope != iamapi.PolicyScopeTypeLocal {
		for _, b := range d.keys.builtin {
			list = append(list, d.policy(d.arn(builtinAccount, "policy", b.Path, b.Name), &b.managed, u, false))
		}
	}
	list = slices.DeleteFunc(list, func(p *iamapi.Policy) bool {
		attached, bounds := *p.AttachmentCount > 0, *p.PermissionsBoundaryUsageCount > 0
		switch {
		case !strings.HasPrefix(p.Path, in.PathPrefix):
			return true
		case in.PolicyUsageFilter == iamapi.PolicyUsageTypePermissionsBoundary:
			return !bounds
		case in.PolicyUsageFilter == iamapi.PolicyUsageTypePermissionsPolicy:
			return !attached
		}
		return in.OnlyAttached != nil && *in.OnlyAttached && !attached
	})
	list, p, err := cut(list, func(p *iamapi.Policy) string { return p.ARN }, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListPoliciesResponse{IsTruncated: p.Truncated, Marker: p.Marker}
	for _, one := range list {
		out.Policies = append(out.Policies, *one)
	}
	return out, nil
}

func (d *desk) listEntitiesForPolicy(in *iamapi.ListEntitiesForPolicyRequest) (*iamapi.ListEntitiesForPolicyResponse, error) {
	if _, err := d.anyPolicy(in.PolicyARN); err != nil {
		return nil, err
	}
	type user struct {
		kind kind
		*identity
	}
	var list []user
	for k, filter := range map[kind]iamapi.EntityType{userKind: iamapi.EntityTypeUser, groupKind: iamapi.EntityTypeGroup, roleKind: iamapi.EntityTypeRole} {
		if in.EntityFilter != "" && in.EntityFilter != filter {
			continue
		}
		found, err := all[identity](d, recordsTail(d.account, string(k)))
		if err != nil {
			return nil, err
		}
		for _, i := range found {
			attached, bounds := slices.Contains(i.Attached, in.PolicyARN), i.Boundary == in.PolicyARN
			switch in.PolicyUsageFilter {
			case iamapi.PolicyUsageTypePermissionsPolicy:
				bounds = false
			case iamapi.PolicyUsageTypePermissionsBoundary:
				attached = false
			}
			if (attached || bounds) && strings.HasPrefix(i.Path, in.PathPrefix) {
				list = append(list, user{k, i})
			}
		}
	}
	list, p, err := cut(list, func(u user) string { return string(u.kind) + "/" + lower(u.identity) }, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListEntitiesForPolicyResponse{IsTruncated: p.Truncated, Marker: p.Marker}
	for _, u := range list {
		switch u.kind {
		case userKind:
			out.PolicyUsers = append(out.PolicyUsers, iamapi.PolicyUser{UserID: u.ID, UserName: u.Name})
		case groupKind:
			out.PolicyGroups = append(out.PolicyGroups, iamapi.PolicyGroup{GroupID: u.ID, GroupName: u.Name})
		case roleKind:
			out.PolicyRoles = append(out.PolicyRoles, iamapi.PolicyRole{RoleID: u.ID, RoleName: u.Name})
		}
	}
	return out, nil
}
