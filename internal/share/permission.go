package share

import (
	"encoding/json"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
)

// The one permission that there is, and the one type of resources (SHARE-012).
const (
	permissionName    = "AWSRAMDefaultPermissionAppMesh"
	permissionVersion = "1"
	resourceType      = "appmesh:Mesh"
)

func permissionARN(r api.Realm) string {
	return "arn:" + r.Partition + ":ram::aws:permission/" + permissionName
}

// Permitted are the actions of AWSRAMDefaultPermissionAppMesh, as the guide has them
// (SHARE-012).
func Permitted() []string {
	return []string{
		"appmesh:CreateVirtualNode", "appmesh:CreateVirtualRouter", "appmesh:CreateRoute", "appmesh:CreateVirtualService",
		"appmesh:UpdateVirtualNode", "appmesh:UpdateVirtualRouter", "appmesh:UpdateRoute", "appmesh:UpdateVirtualService",
		"appmesh:ListVirtualNodes", "appmesh:ListVirtualRouters", "appmesh:ListRoutes", "appmesh:ListVirtualServices",
		"appmesh:DescribeMesh", "appmesh:DescribeVirtualNode", "appmesh:DescribeVirtualRouter", "appmesh:DescribeRoute", "appmesh:DescribeVirtualService",
		"appmesh:DeleteVirtualNode", "appmesh:DeleteVirtualRouter", "appmesh:DeleteRoute", "appmesh:DeleteVirtualService",
		"appmesh:TagResource", "appmesh:UntagResource",
	}
}

// implied are the actions that consumers have beside the permission's. The guide lets
// them list and describe everything, list tags of what is theirs, and connect Envoys as
// nodes of theirs, which the permission's actions do not say (SHARE-013). Evermesh's own
// tell of what may be described.
func implied() []string {
	return []string{
		"appmesh:ListVirtualGateways", "appmesh:ListGatewayRoutes", "appmesh:DescribeVirtualGateway", "appmesh:DescribeGatewayRoute",
		"appmesh:ListTagsForResource", "appmesh:StreamAggregatedResources",
		"evermesh:DescribeMeshSettings", "evermesh:DescribeRollout", "evermesh:Explain", "evermesh:Plan",
	}
}

// grants are the actions of a share, for look-ups.
func grants() map[string]bool {
	out := map[string]bool{}
	for _, a := range slices.Concat(Permitted(), implied()) {
		out[a] = true
	}
	return out
}

// permission is the text of the permission.
func permissionText() string {
	text, _ := json.Marshal(map[string]any{"Effect": "Allow", "Action": Permitted()}) // texts always can be
	return string(text)
}

func (s *Service) permissionSummary() ramapi.ResourceSharePermissionSummary {
	arn, name, kind, version, status, yes := permissionARN(s.Realm), permissionName, resourceType, permissionVersion, string(ramapi.PermissionStatusAttachable), true
	since := released()
	return ramapi.ResourceSharePermissionSummary{
		ARN: &arn, Name: &name, ResourceType: &kind, Version: &version, Status: &status, DefaultVersion: &yes, IsResourceTypeDefault: &yes,
		CreationTime: &since, LastUpdatedTime: &since,
		PermissionType: ramapi.PermissionTypeAWSManaged, FeatureSet: ramapi.PermissionFeatureSetStandard,
	}
}

func (s *Service) permissionDetail() ramapi.ResourceSharePermissionDetail {
	x, text := s.permissionSummary(), permissionText()
	return ramapi.ResourceSharePermissionDetail{
		ARN: x.ARN, Name: x.Name, ResourceType: x.ResourceType, Version: x.Version, DefaultVersion: x.DefaultVersion, IsResourceTypeDefault: x.IsResourceTypeDefault,
		CreationTime: x.CreationTime, LastUpdatedTime: x.LastUpdatedTime, Permission: &text,
		Status: ramapi.PermissionStatusAttachable, PermissionType: x.PermissionType, FeatureSet: x.FeatureSet,
	}
}
