package rest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/wire"
)

// about says what operations of a service that is elsewhere are about. It mirrors what
// the services here ask policies for, as far as the input tells it.
type about struct {
	// resource follows an ARN's account: {Member} stands for a member of the input,
	// {Member=x} for it or x. @Member is a member that is an ARN itself. * is none.
	resource string
	// operations have that resource if the input has its members. Of one that stands
	// in several rows all count; where the input has none of them it is *.
	operations string
	// of is the service in the ARN, empty for the one that is asked.
	of string
	// action is another one than the operation's: it is asked beside that. to is the
	// service that a role is passed to.
	action, to string
}

// abouts has a row for every operation of every service, by signing names. Members that
// are not in a row are free text: whatever a caller writes there, no policy takes it for
// a resource.
var abouts = map[string][]about{
	"acm": {
		{resource: "@CertificateArn", operations: "AddTagsToCertificate DeleteCertificate DescribeCertificate ExportCertificate GetCertificate ImportCertificate ListTagsForCertificate RemoveTagsFromCertificate RenewCertificate RevokeCertificate"},
		{resource: "*", operations: "ListCertificates RequestCertificate"},
		{resource: "@CertificateAuthorityArn", operations: "RequestCertificate", of: "acm-pca", action: "acm-pca:IssueCertificate"},
	},
	"acm-pca": {
		{resource: "@CertificateAuthorityArn", operations: "CreatePermission DeleteCertificateAuthority DeletePermission DescribeCertificateAuthority GetCertificate GetCertificateAuthorityCertificate GetCertificateAuthorityCsr ImportCertificateAuthorityCertificate IssueCertificate ListPermissions ListTags RestoreCertificateAuthority RevokeCertificate TagCertificateAuthority UntagCertificateAuthority UpdateCertificateAuthority"},
		{resource: "*", operations: "CreateCertificateAuthority ListCertificateAuthorities"},
	},
	"cloudtrail": {{resource: "*", operations: "LookupEvents"}},
	"eks": {
		{resource: "cluster/{clusterName}", operations: "CreatePodIdentityAssociation ListPodIdentityAssociations"},
		{resource: "podidentityassociation/{clusterName}/{associationId}", operations: "DeletePodIdentityAssociation DescribePodIdentityAssociation UpdatePodIdentityAssociation"},
		{resource: "@roleArn", operations: "CreatePodIdentityAssociation UpdatePodIdentityAssociation", of: "iam", action: "iam:PassRole", to: "pods.eks.amazonaws.com"},
	},
	"eks-auth": {{resource: "cluster/{clusterName}", operations: "AssumeRoleForPodIdentity", of: "eks"}},
	"iam": {
		{resource: "user{Path=/}{UserName}", operations: "CreateUser"},
		{resource: "user{NewPath=/}{NewUserName}", operations: "UpdateUser"},
		{resource: "user/{UserName}", operations: "AttachUserPolicy CreateAccessKey DeleteAccessKey DeleteUser DeleteUserPermissionsBoundary DeleteUserPolicy DetachUserPolicy GetUser GetUserPolicy ListAccessKeys ListAttachedUserPolicies ListGroupsForUser ListUserPolicies ListUserTags PutUserPermissionsBoundary PutUserPolicy TagUser UntagUser UpdateAccessKey UpdateUser"},
		{resource: "user{PathPrefix=/}", operations: "ListUsers"},
		{resource: "group{Path=/}{GroupName}", operations: "CreateGroup"},
		{resource: "group/{GroupName}", operations: "AddUserToGroup AttachGroupPolicy DeleteGroup DeleteGroupPolicy DetachGroupPolicy GetGroup GetGroupPolicy ListAttachedGroupPolicies ListGroupPolicies PutGroupPolicy RemoveUserFromGroup"},
		{resource: "group{PathPrefix=/}", operations: "ListGroups"},
		{resource: "role{Path=/}{RoleName}", operations: "CreateRole"},
		{resource: "role/aws-service-role/{AWSServiceName}/", operations: "CreateServiceLinkedRole"},
		{resource: "role/{RoleName}", operations: "AttachRolePolicy DeleteRole DeleteRolePermissionsBoundary DeleteRolePolicy DeleteServiceLinkedRole DetachRolePolicy GetRole GetRolePolicy ListAttachedRolePolicies ListInstanceProfilesForRole ListRolePolicies ListRoleTags PutRolePermissionsBoundary PutRolePolicy TagRole UntagRole UpdateAssumeRolePolicy UpdateRole UpdateRoleDescription"},
		{resource: "role{PathPrefix=/}", operations: "ListRoles"},
		{resource: "policy{Path=/}{PolicyName}", operations: "CreatePolicy"},
		{resource: "@PolicyArn", operations: "CreatePolicyVersion DeletePolicy DeletePolicyVersion GetPolicy GetPolicyVersion ListEntitiesForPolicy ListPolicyTags ListPolicyVersions SetDefaultPolicyVersion TagPolicy UntagPolicy"},
		{resource: "policy{PathPrefix=/}", operations: "ListPolicies"},
		{resource: "instance-profile{Path=/}{InstanceProfileName}", operations: "CreateInstanceProfile"},
		{resource: "instance-profile/{InstanceProfileName}", operations: "AddRoleToInstanceProfile DeleteInstanceProfile GetInstanceProfile RemoveRoleFromInstanceProfile"},
		{resource: "instance-profile{PathPrefix=/}", operations: "ListInstanceProfiles"},
		{resource: "role/{RoleName}", operations: "AddRoleToInstanceProfile", action: "iam:PassRole", to: "ec2.amazonaws.com"},
		{resource: "@OpenIDConnectProviderArn", operations: "AddClientIDToOpenIDConnectProvider DeleteOpenIDConnectProvider GetOpenIDConnectProvider ListOpenIDConnectProviderTags RemoveClientIDFromOpenIDConnectProvider TagOpenIDConnectProvider UntagOpenIDConnectProvider UpdateOpenIDConnectProviderThumbprint"},
		{resource: "oidc-provider/{Url=}", operations: "CreateOpenIDConnectProvider"},
		{resource: "@PolicySourceArn", operations: "SimulatePrincipalPolicy"},
		{resource: "*", operations: "GetAccessKeyLastUsed GetServiceLinkedRoleDeletionStatus ListOpenIDConnectProviders SimulateCustomPolicy"},
	},
	"ram": {
		{resource: "@resourceShareArn", operations: "AssociateResourceShare AssociateResourceSharePermission DeleteResourceShare DisassociateResourceShare DisassociateResourceSharePermission ListResourceSharePermissions TagResource UntagResource UpdateResourceShare"},
		{resource: "@resourceArn", operations: "TagResource UntagResource"},
		{resource: "@resourceShareInvitationArn", operations: "AcceptResourceShareInvitation ListPendingInvitationResources RejectResourceShareInvitation"},
		{resource: "@permissionArn", operations: "GetPermission"},
		{resource: "*", operations: "CreateResourceShare EnableSharingWithAwsOrganization GetResourcePolicies GetResourceShareAssociations GetResourceShareInvitations GetResourceShares ListPermissions ListPrincipals ListResourceTypes ListResources"},
	},
	"servicediscovery": {
		{resource: "namespace/{Id}", operations: "DeleteNamespace GetNamespace UpdateHttpNamespace UpdatePrivateDnsNamespace UpdatePublicDnsNamespace"},
		{resource: "namespace/{NamespaceId}", operations: "CreateService"},
		{resource: "service/{Id}", operations: "DeleteService GetService UpdateService"},
		{resource: "service/{ServiceId}", operations: "DeleteServiceAttributes DeregisterInstance GetInstance GetInstancesHealthStatus GetServiceAttributes ListInstances RegisterInstance UpdateInstanceCustomHealthStatus UpdateServiceAttributes"},
		{resource: "@ResourceARN", operations: "ListTagsForResource TagResource UntagResource"},
		{resource: "*", operations: "CreateHttpNamespace CreatePrivateDnsNamespace CreatePublicDnsNamespace DiscoverInstances DiscoverInstancesRevision GetOperation ListNamespaces ListOperations ListServices"},
	},
	"servicequotas": {
		{resource: "{ServiceCode}/{QuotaCode}", operations: "RequestServiceQuotaIncrease"},
		{resource: "*", operations: "GetAWSDefaultServiceQuota GetRequestedServiceQuotaChange GetServiceQuota ListAWSDefaultServiceQuotas ListRequestedServiceQuotaChangeHistory ListRequestedServiceQuotaChangeHistoryByQuota ListServiceQuotas ListServices"},
	},
	"sts": {
		{resource: "@RoleArn", operations: "AssumeRole AssumeRoleWithWebIdentity", of: "iam"},
		{resource: "federated-user/{Name}", operations: "GetFederationToken"},
		{resource: "*", operations: "GetAccessKeyInfo GetCallerIdentity GetSessionToken"},
	},
	"tagging": {{resource: "*", operations: "GetResources GetTagKeys GetTagValues TagResources UntagResources"}},
}

// conditions are condition keys that inputs of services give, and the members that
// have their values.
var conditions = map[string][]string{
	"acm": {
		"acm:certificateauthority CertificateAuthorityArn", "acm:domainnames DomainName SubjectAlternativeNames",
	},
	"acm-pca": {"acm-pca:templatearn TemplateArn"},
	"iam": {
		"iam:policyarn PolicyArn", "iam:permissionsboundary PermissionsBoundary", "iam:awsservicename AWSServiceName",
	},
	"ram": {
		"ram:resourcearn resourceArns", "ram:principal principals", "ram:permissionarn permissionArn",
		"ram:requestedallowsexternalprincipals allowExternalPrincipals",
	},
	"servicediscovery": {"servicediscovery:namespacename NamespaceName", "servicediscovery:servicename ServiceName"},
	"servicequotas":    {"servicequotas:service ServiceCode"},
	"sts": {
		"sts:rolesessionname RoleSessionName", "sts:externalid ExternalId", "sts:sourceidentity SourceIdentity",
	},
}

// questions are what policies are asked for a call of a service that is elsewhere.
// account is the caller's, which the one there stands for.
func (t *target) questions(realm api.Realm, account string, doc map[string]any) ([]auth.Question, error) {
	name := t.service.SigningName()
	own := t.service.Prefix + ":" + t.op.Name
	keys, err := inputKeys(name, realm, doc)
	if err != nil {
		return nil, err
	}
	var out, beside []auth.Question
	for _, row := range abouts[name] {
		if row.resource == "*" || !slices.Contains(strings.Fields(row.operations), t.op.Name) {
			continue
		}
		arn, err := row.arn(cmp.Or(row.of, name), realm, account, doc)
		switch {
		case err != nil:
			return nil, err
		case arn == "":
		case row.to != "":
			beside = append(beside, auth.Question{Action: row.action, Resource: arn, Keys: map[string][]string{"iam:passedtoservice": {row.to}}})
		case row.action != "":
			beside = append(beside, auth.Question{Action: row.action, Resource: arn, Keys: keys})
		default:
			out = append(out, auth.Question{Action: own, Resource: arn, Keys: keys})
		}
	}
	if out == nil {
		out = []auth.Question{{Action: own, Resource: "*", Keys: keys}}
	}
	return append(out, beside...), nil
}

// arn is the row's resource; empty where the input does not name it.
func (row about) arn(of string, realm api.Realm, account string, doc map[string]any) (string, error) {
	if of == "iam" || of == "sts" {
		realm.Region = ""
	}
	if member, ok := strings.CutPrefix(row.resource, "@"); ok {
		value := text(doc, member)
		if value == "" {
			return "", nil
		}
		n, ok := api.ParseResourceName(value)
		if !ok || n.Partition != realm.Partition || n.Service != of || (n.Region != realm.Region && n.Region != "") || n.Account == "" || n.Resource == "" {
			return "", strange(value, member, realm.ResourceName(of, account, "…"))
		}
		return value, nil
	}
	var resource strings.Builder
	for rest := row.resource; rest != ""; {
		before, after, found := strings.Cut(rest, "{")
		resource.WriteString(before)
		if !found {
			break
		}
		var member string
		member, rest, _ = strings.Cut(after, "}")
		member, instead, optional := strings.Cut(member, "=")
		value := text(doc, member)
		switch {
		case value == "" && !optional:
			return "", nil
		case value == "":
			value = instead
		case member == "Url":
			value = strings.Trim(strings.TrimPrefix(value, "https://"), "/")
		case strings.HasPrefix(value, "arn:"): // where an id may be an ARN, as in Cloud Map
			n, _ := api.ParseResourceName(value)
			id, ok := strings.CutPrefix(n.Resource, resource.String())
			if !ok || n.Partition != realm.Partition || n.Service != of || n.Region != realm.Region {
				return "", strange(value, member, realm.ResourceName(of, account, resource.String()+"…"))
			}
			value = id
		}
		if !optional && strings.ContainsAny(value, "/:") {
			return "", strange(value, member, "a name without / and :")
		}
		resource.WriteString(value)
	}
	return realm.ResourceName(of, account, resource.String()), nil
}

// strange refuses what a service elsewhere might read in another way than policies do.
func strange(value, member, want string) error {
	return api.Errorf(wire.CodeValidation, "1 validation error detected: Value '%s' at '%s' names nothing that policies can be asked about: want %s", shortened(value), member, want)
}

// inputKeys are the condition keys that the input of a service gives.
func inputKeys(name string, realm api.Realm, doc map[string]any) (map[string][]string, error) {
	out := map[string][]string{}
	for _, row := range conditions[name] {
		members := strings.Fields(row)
		for _, member := range members[1:] {
			switch v := doc[member].(type) {
			case nil:
			case []any:
				for _, item := range v {
					out[members[0]] = append(out[members[0]], plain(item))
				}
			default:
				out[members[0]] = append(out[members[0]], plain(v))
			}
		}
	}
	const key, template = "acm-pca:templatearn", ":acm-pca:::template/"
	if name == "acm-pca" {
		if out[key] == nil {
			out[key] = []string{"arn:" + realm.Partition + template + "EndEntityCertificate/V1"}
		}
		if !strings.HasPrefix(out[key][0], "arn:"+realm.Partition+template) {
			return nil, strange(out[key][0], "TemplateArn", "arn:"+realm.Partition+template+"…")
		}
	}
	if name == "acm" {
		out[key] = []string{"arn:" + realm.Partition + template + "EndEntityCertificate/V1"}
	}
	return out, nil
}

// plain is a scalar of a document as text.
func plain(v any) string { return fmt.Sprint(v) }
