package share_test

import (
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What RAM answers to what is asked in other ways than the story's.
func TestRefusals(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.python(t, `
am.create_mesh(meshName="apps")
s = a.create_resource_share(name="x")["resourceShare"]["resourceShareArn"]
share = "arn:aws:ram:us-east-1:%s:resource-share/00000000-0000-0000-0000-000000000000"
for f, arguments in (
    (a.create_resource_share, dict(name="y", resourceArns=["apps"])),
    (a.create_resource_share, dict(name="y", resourceArns=["arn:aws:ec2:us-east-1:%s:subnet/s" % A])),
    (a.create_resource_share, dict(name="y", resourceArns=[mesh() + "/virtualNode/n"])),
    (a.create_resource_share, dict(name="y", resourceArns=[mesh().replace("us-east-1", "eu-west-1")])),
    (a.create_resource_share, dict(name="y", resourceArns=[mesh("none")])),
    (a.create_resource_share, dict(name="y", resourceArns=[mesh(of=B)])),
    (a.create_resource_share, dict(name="y", principals=["nobody"])),
    (a.create_resource_share, dict(name="y", principals=[A])),
    (a.create_resource_share, dict(name="y", principals=["arn:aws:iam::%s:role/r" % B])),
    (a.create_resource_share, dict(name="y", permissionArns=["arn:aws:ram::aws:permission/AWSRAMDefaultPermissionSubnet"])),
    (a.create_resource_share, dict(name="y", tags=[{"key": "aws:x", "value": ""}])),
    (a.create_resource_share, dict(name="y", sources=[A])),
    (a.delete_resource_share, dict(resourceShareArn=share % A)),
    (a.delete_resource_share, dict(resourceShareArn=share % B)),
    (a.delete_resource_share, dict(resourceShareArn="x")),
    (b.delete_resource_share, dict(resourceShareArn=s)),
    (b.update_resource_share, dict(resourceShareArn=s, name="z")),
    (b.associate_resource_share, dict(resourceShareArn=s, principals=[B])),
    (b.disassociate_resource_share, dict(resourceShareArn=s, principals=[B])),
    (b.tag_resource, dict(resourceShareArn=s, tags=[{"key": "k", "value": "v"}])),
    (b.get_resource_shares, dict(resourceOwner="SELF", resourceShareArns=[s])),
    (b.list_resource_share_permissions, dict(resourceShareArn=s)),
    (a.associate_resource_share, dict(resourceShareArn=s)),
    (a.disassociate_resource_share, dict(resourceShareArn=s, resourceArns=[mesh()])),
    (a.disassociate_resource_share, dict(resourceShareArn=s, principals=[B])),
    (a.get_resource_share_invitations, dict(resourceShareInvitationArns=["arn:aws:ram:us-east-1:%s:resource-share-invitation/x" % A])),
    (a.accept_resource_share_invitation, dict(resourceShareInvitationArn=s)),
    (a.get_resource_share_associations, dict(associationType="PRINCIPAL", resourceArn=mesh())),
    (a.get_resource_share_associations, dict(associationType="RESOURCE", principal=B)),
    (a.list_resources, dict(resourceOwner="SELF", resourceType="ec2:Subnet")),
    (a.list_resources, dict(resourceOwner="SELF", nextToken="made-up")),
    (a.get_permission, dict(permissionArn="arn:aws:ram::aws:permission/None")),
    (a.get_permission, dict(permissionArn="arn:aws:ram::aws:permission/AWSRAMDefaultPermissionAppMesh", permissionVersion=2)),
    (a.list_permissions, dict(resourceType="ec2:Subnet")),
    (a.get_resource_policies, dict(resourceArns=[mesh(of=B)])),
):
    print(refusal(f, **arguments).split(":")[0])
`, `
400 MalformedArnException
400 MalformedArnException
400 MalformedArnException
400 MalformedArnException
400 UnknownResourceException
400 OperationNotPermittedException
400 InvalidParameterException
400 InvalidParameterException
400 InvalidParameterException
400 UnknownResourceException
400 InvalidParameterException
400 InvalidParameterException
400 UnknownResourceException
400 UnknownResourceException
400 MalformedArnException
400 UnknownResourceException
400 UnknownResourceException
400 UnknownResourceException
400 UnknownResourceException
400 UnknownResourceException
400 UnknownResourceException
400 UnknownResourceException
400 InvalidParameterException
400 UnknownResourceException
400 UnknownResourceException
400 ResourceShareInvitationArnNotFoundException
400 MalformedArnException
400 InvalidParameterException
400 InvalidParameterException
400 InvalidResourceTypeException
400 InvalidNextTokenException
400 UnknownResourceException
400 InvalidParameterException
400 InvalidParameterException
400 OperationNotPermittedException`)
}

// The permission, its policy, tags, tokens and pages.
func TestDetails(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	t.Run("SHARE-012 the permission has the guide's actions", func(t *testing.T) {
		g.python(t, `
arn = "arn:aws:ram::aws:permission/AWSRAMDefaultPermissionAppMesh"
p, = a.list_permissions(resourceType="appmesh:Mesh")["permissions"]
print(p["arn"] == arn, p["name"], p["resourceType"], p["isResourceTypeDefault"], p["status"], p["permissionType"])
for action in sorted(json.loads(a.get_permission(permissionArn=arn)["permission"]["permission"])["Action"]):
    print(action)
print(a.list_resource_types()["resourceTypes"])
print(a.list_permissions(permissionType="CUSTOMER_MANAGED")["permissions"])
`, `
True AWSRAMDefaultPermissionAppMesh appmesh:Mesh True ATTACHABLE AWS_MANAGED
appmesh:CreateRoute
appmesh:CreateVirtualNode
appmesh:CreateVirtualRouter
appmesh:CreateVirtualService
appmesh:DeleteRoute
appmesh:DeleteVirtualNode
appmesh:DeleteVirtualRouter
appmesh:DeleteVirtualService
appmesh:DescribeMesh
appmesh:DescribeRoute
appmesh:DescribeVirtualNode
appmesh:DescribeVirtualRouter
appmesh:DescribeVirtualService
appmesh:ListRoutes
appmesh:ListVirtualNodes
appmesh:ListVirtualRouters
appmesh:ListVirtualServices
appmesh:TagResource
appmesh:UntagResource
appmesh:UpdateRoute
appmesh:UpdateVirtualNode
appmesh:UpdateVirtualRouter
appmesh:UpdateVirtualService
[{'resourceType': 'appmesh:Mesh', 'serviceName': 'appmesh', 'resourceRegionScope': 'REGIONAL'}]
[]`)
	})
	t.Run("SHARE-014 a share is a policy of its mesh", func(t *testing.T) {
		g.python(t, `
am.create_mesh(meshName="apps")
s = a.create_resource_share(name="x", resourceArns=[mesh()], principals=[B])["resourceShare"]["resourceShareArn"]
print(a.get_resource_policies(resourceArns=[mesh()])["policies"])
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
b.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
x, = json.loads(a.get_resource_policies(resourceArns=[mesh()])["policies"][0])["Statement"]
print(x["Effect"], x["Principal"], x["Resource"], len(x["Action"]))
`, `
[]
Allow {'AWS': 'arn:aws:iam::222222222222:root'} arn:aws:appmesh:us-east-1:111111111111:mesh/apps 23`)
	})
	t.Run("an account may be named by its root", func(t *testing.T) {
		g.python(t, `
root = "arn:aws:iam::%s:root" % C
s = a.create_resource_share(name="root", principals=[root])["resourceShare"]["resourceShareArn"]
print(a.associate_resource_share(resourceShareArn=s, principals=[C, root])["resourceShareAssociations"][1]["associatedEntity"])
print(a.disassociate_resource_share(resourceShareArn=s, principals=[root])["resourceShareAssociations"][0]["status"])
a.delete_resource_share(resourceShareArn=s)
`, "333333333333\nDISASSOCIATED")
	})
	t.Run("permissions are the default's", func(t *testing.T) {
		g.python(t, `
s, = a.get_resource_shares(resourceOwner="SELF", resourceShareStatus="ACTIVE")["resourceShares"]
arn, p = s["resourceShareArn"], "arn:aws:ram::aws:permission/AWSRAMDefaultPermissionAppMesh"
print([x["name"] for x in b.list_resource_share_permissions(resourceShareArn=arn)["permissions"]])
print(refusal(a.disassociate_resource_share_permission, resourceShareArn=arn, permissionArn=p).split(":")[0])
print(a.associate_resource_share_permission(resourceShareArn=arn, permissionArn=p)["returnValue"])
a.disassociate_resource_share(resourceShareArn=arn, resourceArns=[mesh()])
print(a.disassociate_resource_share_permission(resourceShareArn=arn, permissionArn=p)["returnValue"])
print(a.list_resource_share_permissions(resourceShareArn=arn)["permissions"], bm.list_meshes()["meshes"])
a.associate_resource_share(resourceShareArn=arn, resourceArns=[mesh()])
print(len(a.list_resource_share_permissions(resourceShareArn=arn)["permissions"]), len(bm.list_meshes()["meshes"]))
`, `
['AWSRAMDefaultPermissionAppMesh']
400 OperationNotPermittedException
True
True
[] []
1 1`)
	})
	t.Run("tags, which the owner alone sees", func(t *testing.T) {
		g.python(t, `
s, = a.get_resource_shares(resourceOwner="SELF", resourceShareStatus="ACTIVE")["resourceShares"]
arn = s["resourceShareArn"]
a.tag_resource(resourceShareArn=arn, tags=[{"key": "team", "value": "x"}, {"key": "cost", "value": "1"}])
a.tag_resource(resourceArn=arn, tags=[{"key": "team", "value": "y"}])
a.untag_resource(resourceShareArn=arn, tagKeys=["cost"])
print(a.get_resource_shares(resourceOwner="SELF", tagFilters=[{"tagKey": "team", "tagValues": ["y"]}])["resourceShares"][0]["tags"])
print(a.get_resource_shares(resourceOwner="SELF", tagFilters=[{"tagKey": "team", "tagValues": ["x"]}])["resourceShares"])
print("tags" in b.get_resource_shares(resourceOwner="OTHER-ACCOUNTS")["resourceShares"][0])
print(refusal(a.tag_resource, resourceShareArn=arn, tags=[{"key": "k%d" % n, "value": ""} for n in range(50)]).split(":")[0])
`, `
[{'key': 'team', 'value': 'y'}]
[]
False
400 TagLimitExceededException`)
	})
	t.Run("client tokens make calls one", func(t *testing.T) {
		g.python(t, `
one = a.create_resource_share(name="once", clientToken="t")
two = a.create_resource_share(name="once", clientToken="t")
print(one["resourceShare"] == two["resourceShare"], two["clientToken"])
print(refusal(a.create_resource_share, name="twice", clientToken="t").split(":")[0])
print(b.create_resource_share(name="mine", clientToken="t")["resourceShare"]["owningAccountId"])
arn = one["resourceShare"]["resourceShareArn"]
print(a.delete_resource_share(resourceShareArn=arn, clientToken="d")["returnValue"], a.delete_resource_share(resourceShareArn=arn, clientToken="d")["returnValue"])
print(refusal(a.delete_resource_share, resourceShareArn=arn).split(":")[0])
`, `
True t
400 IdempotentParameterMismatchException
222222222222
True True
400 UnknownResourceException`)
	})
	t.Run("lists come in pages", func(t *testing.T) {
		g.python(t, `
for n in range(7):
    a.create_resource_share(name="page%d" % n)
def walk(most):
    names, token = [], {}
    while True:
        page = a.get_resource_shares(resourceOwner="SELF", resourceShareStatus="ACTIVE", maxResults=most, **token)
        names += [x["name"] for x in page["resourceShares"]]
        if "nextToken" not in page:
            return names
        token = {"nextToken": page["nextToken"]}
whole = walk(500)
print(whole)
print([walk(most) == whole for most in range(1, 10)])
print(refusal(a.get_resource_shares, resourceOwner="SELF", maxResults=0).split(":")[0])
`, `
['x', 'page0', 'page1', 'page2', 'page3', 'page4', 'page5', 'page6']
[True, True, True, True, True, True, True, True, True]
400 ValidationException`)
	})
}

// An invitation can be accepted for seven days, and sent again after that.
func TestInvitationsExpire(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.python(t, `
am.create_mesh(meshName="apps")
a.create_resource_share(name="x", resourceArns=[mesh()], principals=[B, C])
`, "")
	g.clock.move(7 * 24 * time.Hour)
	t.Run("SHARE-016 who waits too long has to be asked again", func(t *testing.T) {
		g.python(t, `
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
arn = i["resourceShareInvitationArn"]
print(i["status"])
print(refusal(b.accept_resource_share_invitation, resourceShareInvitationArn=arn).split(":")[0])
print(refusal(b.list_pending_invitation_resources, resourceShareInvitationArn=arn).split(":")[0])
s, = a.get_resource_shares(resourceOwner="SELF")["resourceShares"]
print([(x["status"], x["statusMessage"]) for x in a.get_resource_share_associations(associationType="PRINCIPAL", principal=B)["resourceShareAssociations"]])
x, = a.associate_resource_share(resourceShareArn=s["resourceShareArn"], principals=[B])["resourceShareAssociations"]
print(x["status"])
i, = [x for x in b.get_resource_share_invitations()["resourceShareInvitations"] if x["status"] == "PENDING"]
print(b.reject_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])["resourceShareInvitation"]["status"])
print(refusal(b.reject_resource_share_invitation, resourceShareInvitationArn=i["resourceShareInvitationArn"]).split(":")[0])
print(bm.list_meshes()["meshes"])
`, `
EXPIRED
400 ResourceShareInvitationExpiredException
400 ResourceShareInvitationExpiredException
[('FAILED', 'The invitation expired.')]
ASSOCIATING
REJECTED
400 ResourceShareInvitationAlreadyRejectedException
[]`)
	})
	t.Run("what has ended is forgotten after two hours", func(t *testing.T) {
		g.python(t, `
s, = a.get_resource_shares(resourceOwner="SELF")["resourceShares"]
a.delete_resource_share(resourceShareArn=s["resourceShareArn"])
print([x["status"] for x in a.get_resource_shares(resourceOwner="SELF")["resourceShares"]])
`, `['DELETED']`)
		g.clock.move(2 * time.Hour)
		g.python(t, `
print(a.get_resource_shares(resourceOwner="SELF")["resourceShares"])
a.create_resource_share(name="y")
print([x["name"] for x in a.get_resource_shares(resourceOwner="SELF")["resourceShares"]])
`, "[]\n['y']")
		left, _, err := g.Store.Records(t.Context(), "service/ram/"+owner+"/share/")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 {
			t.Errorf("%d shares are kept in the store, want 1", len(left))
		}
	})
}

// A mesh that was made anew is another one, whatever its name.
func TestAnotherMeshOfTheName(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.python(t, `
am.create_mesh(meshName="apps")
s = a.create_resource_share(name="x", resourceArns=[mesh()], principals=[B])["resourceShare"]["resourceShareArn"]
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
b.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
print(len(bm.list_meshes()["meshes"]))
am.delete_mesh(meshName="apps")
print(len(bm.list_meshes()["meshes"]), a.list_resources(resourceOwner="SELF")["resources"][0]["status"])
am.create_mesh(meshName="apps")
print(len(bm.list_meshes()["meshes"]))
a.associate_resource_share(resourceShareArn=s, resourceArns=[mesh()])
print(len(bm.list_meshes()["meshes"]), a.list_resources(resourceOwner="SELF")["resources"][0]["status"])
`, "1\n0 UNAVAILABLE\n0\n1 AVAILABLE")
}

// A share that one replica writes acts on the other, and ends there.
func TestReplicas(t *testing.T) {
	t.Parallel()
	data := storetest.Replicas(t, 2)
	left, right := serve(t, data[0]), serve(t, data[1])
	left.python(t, `
am.create_mesh(meshName="apps")
a.create_resource_share(name="x", resourceArns=[mesh()], principals=[B])
`, "")
	right.python(t, `
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
b.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
print(len(bm.list_meshes()["meshes"]))
`, "1")
	testenv.Eventually(t, "the other replica knows", func() bool { return len(left.shares.Meshes(consumer)) == 1 })
	t.Run("SHARE-019 it ends on every replica", func(t *testing.T) {
		left.python(t, `a.delete_resource_share(resourceShareArn=a.get_resource_shares(resourceOwner="SELF")["resourceShares"][0]["resourceShareArn"])`, "")
		testenv.Eventually(t, "the other replica forgets", func() bool { return len(right.shares.Meshes(consumer)) == 0 })
		right.python(t, `print(refusal(bm.describe_mesh, meshName="apps", meshOwner=A).split(":")[0])`, "403 ForbiddenException")
	})
	if _, ok := right.CLI(t, resttest.Root(consumer), "appmesh", "describe-mesh", "--mesh-name", "apps", "--mesh-owner", owner); ok {
		t.Error("the CLI describes it")
	}
}
