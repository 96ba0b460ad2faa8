package share_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What an owner and a consumer do one after the other, as the guide tells it, with the
// AWS CLI and boto3.
func TestSharingByInvitation(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	g.python(t, `
am.create_mesh(meshName="apps")
am.create_virtual_node(meshName="apps", virtualNodeName="front", spec={})
`, "")
	t.Run("SHARE-018 the CLI shares a mesh by its ARN", func(t *testing.T) {
		out, ok := g.CLI(t, resttest.Root(owner), "ram", "create-resource-share", "--name", "shop",
			"--resource-arns", "arn:aws:appmesh:us-east-1:"+owner+":mesh/apps", "--principals", consumer,
			"--query", "resourceShare.[name,owningAccountId,status,allowExternalPrincipals,featureSet]", "--output", "text")
		if want := "shop\t" + owner + "\tACTIVE\tTrue\tSTANDARD"; !ok || out != want {
			t.Errorf("it printed %q, want %q", out, want)
		}
	})
	t.Run("SHARE-016 nothing is shared before the invitation is accepted", func(t *testing.T) {
		g.python(t, `
print([m["meshName"] for m in bm.list_meshes()["meshes"]])
print(refusal(bm.describe_mesh, meshName="apps", meshOwner=A))
print(b.get_resource_shares(resourceOwner="OTHER-ACCOUNTS")["resourceShares"])
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
print(i["status"], i["senderAccountId"], i["receiverAccountId"], i["resourceShareName"])
print([r["arn"] for r in b.list_pending_invitation_resources(resourceShareInvitationArn=i["resourceShareInvitationArn"])["resources"]])
x, = a.get_resource_share_associations(associationType="PRINCIPAL")["resourceShareAssociations"]
print(x["associatedEntity"], x["status"], x["external"])
print(c.get_resource_share_invitations()["resourceShareInvitations"])
print(refusal(c.accept_resource_share_invitation, resourceShareInvitationArn=i["resourceShareInvitationArn"]).split(":")[0])
`, `
[]
403 ForbiddenException: User: arn:aws:iam::222222222222:root is not authorized to perform: appmesh:DescribeMesh on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps
[]
PENDING 111111111111 222222222222 shop
['arn:aws:appmesh:us-east-1:111111111111:mesh/apps']
222222222222 ASSOCIATING True
[]
400 ResourceShareInvitationArnNotFoundException`)
	})
	t.Run("SHARE-016 SHARE-024 who accepts has access, by name and owner", func(t *testing.T) {
		g.python(t, `
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
arn = i["resourceShareInvitationArn"]
print(b.accept_resource_share_invitation(resourceShareInvitationArn=arn)["resourceShareInvitation"]["status"])
print([(m["meshName"], m["meshOwner"], m["resourceOwner"], m["arn"]) for m in bm.list_meshes()["meshes"]])
print(bm.describe_mesh(meshName="apps", meshOwner=A)["mesh"]["metadata"]["meshOwner"])
print(refusal(bm.describe_mesh, meshName="apps").split(":")[0])
print(refusal(b.accept_resource_share_invitation, resourceShareInvitationArn=arn).split(":")[0])
print(refusal(b.reject_resource_share_invitation, resourceShareInvitationArn=arn).split(":")[0])
s, = b.get_resource_shares(resourceOwner="OTHER-ACCOUNTS")["resourceShares"]
print(s["name"], s["owningAccountId"])
print([r["arn"] for r in b.list_resources(resourceOwner="OTHER-ACCOUNTS")["resources"]])
print([(p["id"], p["external"]) for p in b.list_principals(resourceOwner="OTHER-ACCOUNTS")["principals"]])
print([(p["id"], p["external"]) for p in a.list_principals(resourceOwner="SELF")["principals"]])
print([x["status"] for x in a.get_resource_share_associations(associationType="PRINCIPAL")["resourceShareAssociations"]])
`, `
ACCEPTED
[('apps', '111111111111', '111111111111', 'arn:aws:appmesh:us-east-1:111111111111:mesh/apps')]
111111111111
404 NotFoundException
400 ResourceShareInvitationAlreadyAcceptedException
400 ResourceShareInvitationAlreadyAcceptedException
shop 111111111111
['arn:aws:appmesh:us-east-1:111111111111:mesh/apps']
[('111111111111', True)]
[('222222222222', True)]
['ASSOCIATED']`)
	})
	t.Run("SHARE-025 SHARE-020 what a consumer makes is its own, and says so", func(t *testing.T) {
		g.python(t, `
m = bm.create_virtual_service(meshName="apps", meshOwner=A, virtualServiceName="pay.local", spec={"provider": {"virtualNode": {"virtualNodeName": "front"}}})["virtualService"]["metadata"]
print(m["arn"], m["meshOwner"], m["resourceOwner"])
bm.create_virtual_node(meshName="apps", meshOwner=A, virtualNodeName="pay", spec={"backends": [{"virtualService": {"virtualServiceName": "pay.local"}}]})
bm.create_virtual_router(meshName="apps", meshOwner=A, virtualRouterName="pay", spec={"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]})
for x in (am, bm):
    print([(s["virtualServiceName"], s["meshOwner"], s["resourceOwner"]) for s in x.list_virtual_services(meshName="apps", meshOwner=A)["virtualServices"]])
    print([(s["virtualNodeName"], s["meshOwner"], s["resourceOwner"]) for s in x.list_virtual_nodes(meshName="apps", meshOwner=A)["virtualNodes"]])
    print([(s["virtualRouterName"], s["meshOwner"], s["resourceOwner"]) for s in x.list_virtual_routers(meshName="apps", meshOwner=A)["virtualRouters"]])
`, "arn:aws:appmesh:us-east-1:222222222222:mesh/apps/virtualService/pay.local 111111111111 222222222222\n"+strings.Repeat(
			`[('pay.local', '111111111111', '222222222222')]
[('front', '111111111111', '111111111111'), ('pay', '111111111111', '222222222222')]
[('pay', '111111111111', '222222222222')]
`, 2))
	})
	t.Run("SHARE-015 a mesh that is shared is not shared on", func(t *testing.T) {
		g.python(t, `
print(refusal(b.create_resource_share, name="on", resourceArns=[mesh()], principals=[C]))
print(refusal(b.create_resource_share, name="on", resourceArns=[mesh(of=B)], principals=[C]).split(":")[0])
s, = a.get_resource_shares(resourceOwner="SELF")["resourceShares"]
print(refusal(b.associate_resource_share, resourceShareArn=s["resourceShareArn"], principals=[C]).split(":")[0])
print(b.get_resource_shares(resourceOwner="SELF")["resourceShares"])
`, `
400 OperationNotPermittedException: Resource arn:aws:appmesh:us-east-1:111111111111:mesh/apps is not owned by account 222222222222: only the owner of a mesh can share it.
400 UnknownResourceException
400 UnknownResourceException
[]`)
	})
	t.Run("SHARE-019 disassociating ends access, and leaves the resources to the owner", func(t *testing.T) {
		share := g.Python(t, resttest.Root(owner), keys()+`print(a.get_resource_shares(resourceOwner="SELF")["resourceShares"][0]["resourceShareArn"])`)
		if out, ok := g.CLI(t, resttest.Root(owner), "ram", "disassociate-resource-share", "--resource-share-arn", share, "--resource-arns", "arn:aws:appmesh:us-east-1:"+owner+":mesh/apps"); !ok {
			t.Fatal(out)
		}
		g.python(t, `
print(bm.list_meshes()["meshes"])
print(refusal(bm.describe_virtual_node, meshName="apps", meshOwner=A, virtualNodeName="pay").split(":")[0])
print(refusal(bm.delete_virtual_node, meshName="apps", meshOwner=A, virtualNodeName="pay").split(":")[0])
print(refusal(bm.list_tags_for_resource, resourceArn="arn:aws:appmesh:us-east-1:%s:mesh/apps@%s/virtualNode/pay" % (B, A)).split(":")[0])
print(am.describe_virtual_node(meshName="apps", virtualNodeName="pay")["virtualNode"]["metadata"]["resourceOwner"])
print(am.delete_virtual_node(meshName="apps", virtualNodeName="pay")["virtualNode"]["status"]["status"])
print(am.delete_virtual_service(meshName="apps", virtualServiceName="pay.local")["virtualService"]["status"]["status"])
print([(x["status"], x["associatedEntity"]) for x in a.get_resource_share_associations(associationType="RESOURCE")["resourceShareAssociations"]])
`, `
[]
403 ForbiddenException
403 ForbiddenException
403 ForbiddenException
222222222222
DELETED
DELETED
[('DISASSOCIATED', 'arn:aws:appmesh:us-east-1:111111111111:mesh/apps')]`)
	})
}

func TestSharingWithinTheOrganization(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	const org, unit = "arn:aws:organizations::111111111111:organization/o-evermeshorg", "ou-shop-frontends"
	if err := share.SetOrganization(t.Context(), g.Store, share.Organization{
		ID: share.DefaultOrganization, Accounts: []string{"444444444444"}, Units: map[string][]string{unit: {consumer}},
	}); err != nil {
		t.Fatal(err)
	}
	t.Run("policies see who is in the organization", func(t *testing.T) {
		want := map[string]string{owner: share.DefaultOrganization, consumer: share.DefaultOrganization, stranger: ""}
		testenv.Eventually(t, "the organization is known", func() bool {
			for account, id := range want {
				if g.shares.Organization(account) != id {
					return false
				}
			}
			return true
		})
	})
	t.Run("SHARE-016 the organization has to enable sharing first", func(t *testing.T) {
		g.python(t, `
am.create_mesh(meshName="apps")
print(refusal(a.create_resource_share, name="all", resourceArns=[mesh()], principals=["`+org+`"]))
print(refusal(a.create_resource_share, name="unit", resourceArns=[mesh()], principals=["arn:aws:organizations::111111111111:ou/o-evermeshorg/`+unit+`"]))
print(refusal(a.create_resource_share, name="inside", allowExternalPrincipals=False, resourceArns=[mesh()], principals=[B]))
print(refusal(b.enable_sharing_with_aws_organization).split(":")[0])
print(a.enable_sharing_with_aws_organization()["returnValue"])
`, `
400 UnknownResourceException: Organization o-evermeshorg could not be found.
400 UnknownResourceException: OrganizationalUnit ou-shop-frontends in unknown organization could not be found.
400 OperationNotPermittedException: The resource you are attempting to share can only be shared within your AWS Organization. This error may also occur if you have not enabled sharing with your AWS organization, or that onboarding process is still in progress.
400 OperationNotPermittedException
True`)
	})
	const who = `
def who():
    return [name for name, x in (("b", bm), ("c", cm)) if x.list_meshes()["meshes"]]
`
	t.Run("SHARE-001 with one account, inside without an invitation and outside with one", func(t *testing.T) {
		g.python(t, who+`
s = a.create_resource_share(name="one", resourceArns=[mesh()], principals=[B, C])["resourceShare"]["resourceShareArn"]
print(who(), b.get_resource_share_invitations()["resourceShareInvitations"])
i, = c.get_resource_share_invitations()["resourceShareInvitations"]
c.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
print(who())
print(refusal(a.update_resource_share, resourceShareArn=s, allowExternalPrincipals=False).split(":")[0])
print(refusal(b.disassociate_resource_share, resourceShareArn=s, principals=[B]).split(":")[0])
print(c.disassociate_resource_share(resourceShareArn=s, principals=[C])["resourceShareAssociations"][0]["status"])
print(who())
print(a.update_resource_share(resourceShareArn=s, allowExternalPrincipals=False, name="uno")["resourceShare"]["name"])
print(refusal(a.associate_resource_share, resourceShareArn=s, principals=[C]).split(":")[0])
print(a.delete_resource_share(resourceShareArn=s)["returnValue"], who())
print([(x["name"], x["status"]) for x in a.get_resource_shares(resourceOwner="SELF")["resourceShares"]])
`, `
['b'] []
['b', 'c']
400 OperationNotPermittedException
400 OperationNotPermittedException
DISASSOCIATED
['b']
uno
400 OperationNotPermittedException
True []
[('uno', 'DELETED')]`)
	})
	t.Run("SHARE-016 an account that does not exist is no member", func(t *testing.T) {
		if err := share.SetOrganization(t.Context(), g.Store, share.Organization{
			ID: share.DefaultOrganization, Accounts: []string{nobody}, Units: map[string][]string{unit: {consumer}},
		}); err != nil {
			t.Fatal(err)
		}
		g.python(t, `
print(refusal(a.create_resource_share, name="typo", allowExternalPrincipals=False, resourceArns=[mesh()], principals=["`+nobody+`"]).split(":")[0])
s = a.create_resource_share(name="early", resourceArns=[mesh()], principals=["`+nobody+`"])["resourceShare"]["resourceShareArn"]
print([(x["status"], x["external"]) for x in a.get_resource_share_associations(associationType="PRINCIPAL", resourceShareArns=[s])["resourceShareAssociations"]])
a.delete_resource_share(resourceShareArn=s)
`, `
400 OperationNotPermittedException
[('ASSOCIATING', True)]`)
	})
	t.Run("SHARE-001 with an organizational unit", func(t *testing.T) {
		g.python(t, who+`
ou = "arn:aws:organizations::111111111111:ou/o-evermeshorg/`+unit+`"
s = a.create_resource_share(name="unit", resourceArns=[mesh()], principals=[ou])["resourceShare"]["resourceShareArn"]
print(who())
print(json.loads(a.get_resource_policies(resourceArns=[mesh()])["policies"][0])["Statement"][0]["Condition"])
a.disassociate_resource_share(resourceShareArn=s, principals=[ou])
print(who())
print(refusal(a.associate_resource_share, resourceShareArn=s, principals=[ou + "x"]).split(":")[0])
`, `
['b']
{'ForAnyValue:StringLike': {'aws:PrincipalOrgPaths': 'o-evermeshorg/ou-shop-frontends/*'}}
[]
400 UnknownResourceException`)
	})
	t.Run("SHARE-001 with the whole organization", func(t *testing.T) {
		g.python(t, who+`
s = a.create_resource_share(name="all", resourceArns=[mesh()], principals=["`+org+`"])["resourceShare"]["resourceShareArn"]
print(who())
print(refusal(c.create_resource_share, name="x", principals=["`+org+`"]))
`, `
['b']
400 UnknownResourceException: Organization o-evermeshorg could not be found.`)
		if err := share.SetOrganization(t.Context(), g.Store, share.Organization{ID: share.DefaultOrganization, Accounts: []string{stranger}}); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the organization is another", func() bool { return len(g.shares.Meshes(stranger)) == 1 && len(g.shares.Meshes(consumer)) == 0 })
		g.python(t, who+`print(who())`, `['c']`)
	})
}
