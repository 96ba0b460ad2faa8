# ram
# aws ram get-resource-shares --resource-owner SELF

mesh = client("appmesh").create_mesh(meshName="shared")["mesh"]["metadata"]["arn"]
call("ListResourceTypes")
call("ListPermissions", resourceType="appmesh:Mesh")
permission = "arn:aws:ram::aws:permission/AWSRAMDefaultPermissionAppMesh"
call("GetPermission", permissionArn=permission)
call("EnableSharingWithAwsOrganization")
made = call("CreateResourceShare", name="team", resourceArns=[mesh], principals=["999999999999"], allowExternalPrincipals=True, tags=[{"key": "team", "value": "mesh"}])
share = made["resourceShare"]["resourceShareArn"]
call("CreateResourceShare", name="broken", resourceArns=["not an arn"])
call("GetResourceShares", resourceOwner="SELF")
call("GetResourceShares", resourceOwner="OTHER-ACCOUNTS")
call("UpdateResourceShare", resourceShareArn=share, name="teams")
call("UpdateResourceShare", resourceShareArn="arn:aws:ram:%s:%s:resource-share/4ce6ffb8-0000-4000-8000-000000000000" % (REGION, ACCOUNT), name="x")
call("AssociateResourceShare", resourceShareArn=share, principals=["888888888888"])
call("GetResourceShareAssociations", associationType="PRINCIPAL", resourceShareArns=[share])
call("ListPrincipals", resourceOwner="SELF")
call("ListResources", resourceOwner="SELF")
call("GetResourcePolicies", resourceArns=[mesh])
call("ListResourceSharePermissions", resourceShareArn=share)
call("AssociateResourceSharePermission", resourceShareArn=share, permissionArn=permission, replace=True)
call("TagResource", resourceShareArn=share, tags=[{"key": "stage", "value": "test"}])
call("UntagResource", resourceShareArn=share, tagKeys=["stage"])
call("GetResourceShareInvitations")
none = "arn:aws:ram:%s:%s:resource-share-invitation/4ce6ffb8-0000-4000-8000-000000000000" % (REGION, ACCOUNT)
call("AcceptResourceShareInvitation", resourceShareInvitationArn=none)
call("RejectResourceShareInvitation", resourceShareInvitationArn=none)
call("ListPendingInvitationResources", resourceShareInvitationArn=none)
call("DisassociateResourceShare", resourceShareArn=share, principals=["888888888888"])
call("DisassociateResourceSharePermission", resourceShareArn=share, permissionArn=permission)
call("DeleteResourceShare", resourceShareArn=share)
