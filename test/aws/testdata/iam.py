# iam
# aws iam list-users
# aws iam create-role --role-name by-cli --assume-role-policy-document {"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}

trust = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]})
policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:StreamAggregatedResources", "Resource": "*"}]})
other = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "appmesh:Delete*", "Resource": "*"}]})
envoy = "arn:aws:iam::aws:policy/AWSAppMeshEnvoyAccess"

# Users, groups, keys.
call("CreateUser", UserName="ana", Path="/ops/", Tags=[{"Key": "team", "Value": "mesh"}])
call("CreateUser", UserName="ana")
call("CreateUser", UserName="not a name")
call("GetUser", UserName="ana")
call("GetUser", UserName="nobody")
call("UpdateUser", UserName="ana", NewUserName="anna")
call("ListUsers", PathPrefix="/ops/")
call("TagUser", UserName="anna", Tags=[{"Key": "stage", "Value": "test"}])
call("ListUserTags", UserName="anna")
call("UntagUser", UserName="anna", TagKeys=["stage"])
call("CreateGroup", GroupName="operators")
call("CreateGroup", GroupName="operators")
call("AddUserToGroup", GroupName="operators", UserName="anna")
call("GetGroup", GroupName="operators")
call("ListGroups")
call("ListGroupsForUser", UserName="anna")
key = call("CreateAccessKey", UserName="anna")["AccessKey"]["AccessKeyId"]
call("ListAccessKeys", UserName="anna")
call("UpdateAccessKey", UserName="anna", AccessKeyId=key, Status="Inactive")
call("GetAccessKeyLastUsed", AccessKeyId=key)
call("DeleteAccessKey", UserName="anna", AccessKeyId=key)
call("DeleteAccessKey", UserName="anna", AccessKeyId="AKIAIOSFODNN7EXAMPLF")

# Policies of an account.
arn = call("CreatePolicy", PolicyName="stream", PolicyDocument=policy, Description="what a proxy needs")["Policy"]["Arn"]
call("CreatePolicy", PolicyName="stream", PolicyDocument=policy)
call("CreatePolicy", PolicyName="broken", PolicyDocument='{"Version": "2012-10-17", "Statement": [{"Effect": "Maybe"}]}')
call("GetPolicy", PolicyArn=arn)
call("GetPolicy", PolicyArn="arn:aws:iam::%s:policy/none" % ACCOUNT)
call("ListPolicies", Scope="Local")
call("TagPolicy", PolicyArn=arn, Tags=[{"Key": "team", "Value": "mesh"}])
call("ListPolicyTags", PolicyArn=arn)
call("UntagPolicy", PolicyArn=arn, TagKeys=["team"])
call("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=other, SetAsDefault=True)
call("GetPolicyVersion", PolicyArn=arn, VersionId="v2")
call("ListPolicyVersions", PolicyArn=arn)
call("DeletePolicyVersion", PolicyArn=arn, VersionId="v2")
call("SetDefaultPolicyVersion", PolicyArn=arn, VersionId="v1")
call("DeletePolicyVersion", PolicyArn=arn, VersionId="v2")

# Policies of users and groups.
call("AttachUserPolicy", UserName="anna", PolicyArn=arn)
call("ListAttachedUserPolicies", UserName="anna")
call("PutUserPolicy", UserName="anna", PolicyName="own", PolicyDocument=policy)
call("GetUserPolicy", UserName="anna", PolicyName="own")
call("ListUserPolicies", UserName="anna")
call("GetUserPolicy", UserName="anna", PolicyName="none")
call("PutUserPermissionsBoundary", UserName="anna", PermissionsBoundary=arn)
call("AttachGroupPolicy", GroupName="operators", PolicyArn=arn)
call("ListAttachedGroupPolicies", GroupName="operators")
call("PutGroupPolicy", GroupName="operators", PolicyName="own", PolicyDocument=policy)
call("GetGroupPolicy", GroupName="operators", PolicyName="own")
call("ListGroupPolicies", GroupName="operators")
call("ListEntitiesForPolicy", PolicyArn=arn)

# Roles.
call("CreateRole", RoleName="proxy", AssumeRolePolicyDocument=trust, Description="of proxies", Tags=[{"Key": "team", "Value": "mesh"}])
call("CreateRole", RoleName="proxy", AssumeRolePolicyDocument=trust)
call("GetRole", RoleName="proxy")
call("GetRole", RoleName="none")
call("UpdateRole", RoleName="proxy", Description="of all proxies", MaxSessionDuration=7200)
call("UpdateRoleDescription", RoleName="proxy", Description="of proxies")
call("UpdateAssumeRolePolicy", RoleName="proxy", PolicyDocument=trust)
call("TagRole", RoleName="proxy", Tags=[{"Key": "stage", "Value": "test"}])
call("ListRoleTags", RoleName="proxy")
call("UntagRole", RoleName="proxy", TagKeys=["stage"])
call("AttachRolePolicy", RoleName="proxy", PolicyArn=envoy)
call("AttachRolePolicy", RoleName="proxy", PolicyArn="arn:aws:iam::aws:policy/NoSuchPolicy")
call("ListAttachedRolePolicies", RoleName="proxy")
call("PutRolePolicy", RoleName="proxy", PolicyName="own", PolicyDocument=policy)
call("GetRolePolicy", RoleName="proxy", PolicyName="own")
call("ListRolePolicies", RoleName="proxy")
call("PutRolePermissionsBoundary", RoleName="proxy", PermissionsBoundary=arn)
call("DeleteRolePermissionsBoundary", RoleName="proxy")
call("ListRoles", PathPrefix="/none/")
call("DeleteRole", RoleName="proxy")
call("SimulatePrincipalPolicy", PolicySourceArn="arn:aws:iam::%s:role/proxy" % ACCOUNT, ActionNames=["appmesh:StreamAggregatedResources", "appmesh:DeleteMesh"])
call("SimulateCustomPolicy", PolicyInputList=[policy], ActionNames=["appmesh:StreamAggregatedResources"])

# Instance profiles.
call("CreateInstanceProfile", InstanceProfileName="proxy")
call("AddRoleToInstanceProfile", InstanceProfileName="proxy", RoleName="proxy")
call("GetInstanceProfile", InstanceProfileName="proxy")
call("ListInstanceProfiles")
call("ListInstanceProfilesForRole", RoleName="proxy")
call("DeleteInstanceProfile", InstanceProfileName="proxy")
call("RemoveRoleFromInstanceProfile", InstanceProfileName="proxy", RoleName="proxy")
call("DeleteInstanceProfile", InstanceProfileName="proxy")

# Service-linked roles. A mesh has made App Mesh's, and needs it.
client("appmesh").create_mesh(meshName="linked")
call("CreateServiceLinkedRole", AWSServiceName="appmesh.amazonaws.com")
task = call("DeleteServiceLinkedRole", RoleName="AWSServiceRoleForAppMesh")["DeletionTaskId"]
call("GetServiceLinkedRoleDeletionStatus", DeletionTaskId=task)

# Identity providers.
provider = call("CreateOpenIDConnectProvider", Url="https://oidc.example.com/id/A", ClientIDList=["sts.amazonaws.com"], ThumbprintList=["9e99a48a9960b14926bb7f3b02e22da2b0ab7280"])["OpenIDConnectProviderArn"]
call("CreateOpenIDConnectProvider", Url="https://oidc.example.com/id/A")
call("GetOpenIDConnectProvider", OpenIDConnectProviderArn=provider)
call("ListOpenIDConnectProviders")
call("AddClientIDToOpenIDConnectProvider", OpenIDConnectProviderArn=provider, ClientID="mesh")
call("RemoveClientIDFromOpenIDConnectProvider", OpenIDConnectProviderArn=provider, ClientID="mesh")
call("UpdateOpenIDConnectProviderThumbprint", OpenIDConnectProviderArn=provider, ThumbprintList=["9e99a48a9960b14926bb7f3b02e22da2b0ab7281"])
call("DeleteOpenIDConnectProvider", OpenIDConnectProviderArn=provider)

# And away again.
call("DetachRolePolicy", RoleName="proxy", PolicyArn=envoy)
call("DeleteRolePolicy", RoleName="proxy", PolicyName="own")
call("DeleteRole", RoleName="proxy")
call("DetachGroupPolicy", GroupName="operators", PolicyArn=arn)
call("DeleteGroupPolicy", GroupName="operators", PolicyName="own")
call("DeleteUserPermissionsBoundary", UserName="anna")
call("DetachUserPolicy", UserName="anna", PolicyArn=arn)
call("DeleteUserPolicy", UserName="anna", PolicyName="own")
call("DeleteUser", UserName="anna")
call("RemoveUserFromGroup", GroupName="operators", UserName="anna")
call("DeleteUser", UserName="anna")
call("DeleteGroup", GroupName="operators")
call("DeletePolicy", PolicyArn=arn)
