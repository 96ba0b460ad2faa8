package iam

import (
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

// tellVersion is how a version is told; its document only on its own.
func tellVersion(m *managed, v version, full bool) iamapi.PolicyVersion {
	id, isDefault := v.ID, v.ID == m.Default
	out := iamapi.PolicyVersion{VersionID: &id, IsDefaultVersion: &isDefault, CreateDate: timestamp(v.Created)}
	if full {
		out.Document = encodeDocument(v.Document)
	}
	return out
}

func (d *desk) createPolicyVersion(in *iamapi.CreatePolicyVersionRequest) (*iamapi.CreatePolicyVersionResponse, error) {
	m, err := d.ownPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	if err := checkDocument(in.PolicyDocument); err != nil {
		return nil, err
	}
	if size(in.PolicyDocument) > managedSize {
		return nil, exceeded("PolicySize", managedSize)
	}
	if len(m.Versions) >= versionsPerPolicy {
		return nil, api.Errorf(iamapi.CodeLimitExceeded, "A managed policy can have up to %d versions. Before you create a new version, you must delete an existing version.", versionsPerPolicy)
	}
	v := version{ID: fmt.Sprintf("v%d", m.Next), Created: d.stamp(), Document: in.PolicyDocument}
	m.Next++
	m.Versions, m.Updated = append(m.Versions, v), v.Created
	if in.SetAsDefault != nil && *in.SetAsDefault {
		m.Default = v.ID
	}
	d.putPolicy(m)
	told := tellVersion(m, v, false)
	return &iamapi.CreatePolicyVersionResponse{PolicyVersion: &told}, nil
}

func (d *desk) versionOf(m *managed, arn, id string) (version, error) {
	v, ok := m.version(id)
	if !ok {
		return v, absent("Policy %s version %s does not exist or is not attachable.", arn, id)
	}
	return v, nil
}

func (d *desk) getPolicyVersion(in *iamapi.GetPolicyVersionRequest) (*iamapi.GetPolicyVersionResponse, error) {
	m, err := d.anyPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	v, err := d.versionOf(m, in.PolicyARN, in.VersionID)
	if err != nil {
		return nil, err
	}
	told := tellVersion(m, v, true)
	return &iamapi.GetPolicyVersionResponse{PolicyVersion: &told}, nil
}

func (d *desk) listPolicyVersions(in *iamapi.ListPolicyVersionsRequest) (*iamapi.ListPolicyVersionsResponse, error) {
	m, err := d.anyPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	order := func(v version) string { return fmt.Sprintf("%09s", v.ID[1:]) }
	list, p, err := cut(m.Versions, order, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListPolicyVersionsResponse{IsTruncated: p.Truncated, Marker: p.Marker}
	for _, v := range list {
		out.Versions = append(out.Versions, tellVersion(m, v, false))
	}
	return out, nil
}

func (d *desk) deletePolicyVersion(in *iamapi.DeletePolicyVersionRequest) (*nothing, error) {
	m, err := d.ownPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	if _, err := d.versionOf(m, in.PolicyARN, in.VersionID); err != nil {
		return nil, err
	}
	if in.VersionID == m.Default {
		return nil, conflict("Cannot delete the default version of a policy.")
	}
	m.Versions = slices.DeleteFunc(m.Versions, func(v version) bool { return v.ID == in.VersionID })
	m.Updated = d.stamp()
	d.putPolicy(m)
	return &nothing{}, nil
}

func (d *desk) setDefaultPolicyVersion(in *iamapi.SetDefaultPolicyVersionRequest) (*nothing, error) {
	m, err := d.ownPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	if _, err := d.versionOf(m, in.PolicyARN, in.VersionID); err != nil {
		return nil, err
	}
	m.Default, m.Updated = in.VersionID, d.stamp()
	d.putPolicy(m)
	return &nothing{}, nil
}
