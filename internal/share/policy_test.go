package share_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// What a caller's policies say counts beside what a share says, on both sides of it. The
// users and their policies are IAM's.
func TestPolicies(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	k, err := iam.Open(t.Context(), iam.Config{
		Store: data, Partition: "aws", Account: owner, MasterKeyFile: filepath.Join(t.TempDir(), "master-key"), CreateMasterKey: true,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddAccount(t.Context(), consumer); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Run(ctx) // it ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	users, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	g := serveWith(t, data, func(o *resttest.Options) {
		o.Services = append(o.Services, users)
		o.Authorizer, o.Keys = k.Authorizer(), k
	})
	ids := keys() + `
ia, ib = client("iam", key=` + resttest.Root(owner).Text() + `), client("iam", key=` + resttest.Root(consumer).Text() + `)
def user(iam, name, managed=(), *statements):
    iam.create_user(UserName=name)
    for m in managed:
        iam.attach_user_policy(UserName=name, PolicyArn="arn:aws:iam::aws:policy/" + m)
    if statements:
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    k = iam.create_access_key(UserName=name)["AccessKey"]
    return (k["AccessKeyId"], k["SecretAccessKey"], "")
def allow(actions, resource="*", effect="Allow"):
    return {"Effect": effect, "Action": actions, "Resource": resource}
def soon(f, **arguments):
    # Another moment, and the policy is known.
    for _ in range(200):
        try:
            return f(**arguments)
        except exceptions.ClientError as e:
            last = e
            time.sleep(0.05)
    raise last
`
	t.Run("SHARE-003 what is shared, and with whom, has one spelling for policies", func(t *testing.T) {
		got := g.Python(t, resttest.Root(owner), ids+`
am.create_mesh(meshName="kept")
am.create_mesh(meshName="open")
def deny(key, value):
    return {"Effect": "Deny", "Action": "ram:*", "Resource": "*", "Condition": {"ForAnyValue:StringEquals": {key: value}}}
full = ["AWSAppMeshFullAccess", "AWSResourceAccessManagerFullAccess"]
x = client("ram", key=user(ia, "words", full, deny("ram:ResourceArn", mesh("kept")), deny("ram:Principal", B)))
s = soon(x.create_resource_share, name="words", resourceArns=[mesh("open")], principals=[C])["resourceShare"]["resourceShareArn"]
def ends(f, **arguments):
    return refusal(f, **arguments).split(":")[0]
for arn in (mesh("kept"), mesh("kept") + "@" + A, mesh("kept") + "@", mesh("kept") + "/"):
    print(ends(x.create_resource_share, name="x", resourceArns=[arn]), ends(x.associate_resource_share, resourceShareArn=s, resourceArns=[arn]))
for p in (B, "arn:aws:iam::%s:root" % B):
    print(ends(x.create_resource_share, name="x", principals=[p]), ends(x.associate_resource_share, resourceShareArn=s, principals=[p]))
    print(ends(x.disassociate_resource_share, resourceShareArn=s, principals=[p]))
print(sorted(e["associatedEntity"] for kind in ("RESOURCE", "PRINCIPAL") for e in a.get_resource_share_associations(associationType=kind, resourceShareArns=[s])["resourceShareAssociations"]))
# Who may not share is not told which meshes there are.
nobody = client("ram", key=user(ia, "nobody-words"))
print(len({refusal(nobody.associate_resource_share, resourceShareArn=s, resourceArns=[mesh(n)]) for n in ("kept", "none")}), ends(nobody.associate_resource_share, resourceShareArn=s, resourceArns=[mesh("none")]))
`)
		want := `403 AccessDeniedException 403 AccessDeniedException
400 MalformedArnException 400 MalformedArnException
400 MalformedArnException 400 MalformedArnException
400 MalformedArnException 400 MalformedArnException
403 AccessDeniedException 403 AccessDeniedException
403 AccessDeniedException
403 AccessDeniedException 403 AccessDeniedException
403 AccessDeniedException
['333333333333', 'arn:aws:appmesh:us-east-1:111111111111:mesh/open']
1 403 AccessDeniedException`
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("SHARE-003 who shares a mesh must be allowed the three actions on its policy", func(t *testing.T) {
		got := g.Python(t, resttest.Root(owner), ids+`
am.create_mesh(meshName="apps")
POLICY = ["appmesh:GetMeshPolicy", "appmesh:PutMeshPolicy", "appmesh:DeleteMeshPolicy"]
full = client("ram", key=user(ia, "full", ["AWSAppMeshFullAccess", "AWSResourceAccessManagerFullAccess"]))
print(soon(full.create_resource_share, name="full", resourceArns=[mesh()])["resourceShare"]["status"])
for missing in POLICY:
    x = client("ram", key=user(ia, missing[8:], ["AWSResourceAccessManagerFullAccess"], allow([p for p in POLICY if p != missing], mesh())))
    empty = soon(x.create_resource_share, name=missing)["resourceShare"]["resourceShareArn"]
    print(refusal(x.create_resource_share, name="x", resourceArns=[mesh()]).split(" because")[0])
    print(refusal(x.associate_resource_share, resourceShareArn=empty, resourceArns=[mesh()]).split(" on resource")[0])
    s = [s["resourceShareArn"] for s in a.get_resource_shares(resourceOwner="SELF", name="full")["resourceShares"]][0]
    # Whom a mesh is opened to is its policy as well.
    print(refusal(x.associate_resource_share, resourceShareArn=s, principals=[B]).split(":")[0])
none = client("ram", key=user(ia, "none", ["AWSAppMeshFullAccess"]))
print(refusal(none.create_resource_share, name="x").split(" because")[0])
`)
		want := "ACTIVE\n"
		for _, action := range []string{"GetMeshPolicy", "PutMeshPolicy", "DeleteMeshPolicy"} {
			text := "403 AccessDeniedException: User: arn:aws:iam::111111111111:user/" + action + " is not authorized to perform: appmesh:" + action
			want += text + " on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps\n" + text + "\n403 AccessDeniedException\n"
		}
		want += "403 AccessDeniedException: User: arn:aws:iam::111111111111:user/none is not authorized to perform: ram:CreateResourceShare on resource: *"
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("SHARE-014 what a consumer may is what the share and its own policies both allow", func(t *testing.T) {
		got := g.Python(t, resttest.Root(owner), ids+`
s = [s["resourceShareArn"] for s in a.get_resource_shares(resourceOwner="SELF", name="full")["resourceShares"]][0]
a.associate_resource_share(resourceShareArn=s, principals=[B])
# To accept it takes a policy, too.
no = client("ram", key=user(ib, "no"))
i, = b.get_resource_share_invitations()["resourceShareInvitations"]
print(refusal(no.accept_resource_share_invitation, resourceShareInvitationArn=i["resourceShareInvitationArn"]).split(" because")[0].split(" on ")[0])
yes = client("ram", key=user(ib, "yes", ["AWSResourceAccessManagerFullAccess"]))
print(soon(yes.accept_resource_share_invitation, resourceShareInvitationArn=i["resourceShareInvitationArn"])["resourceShareInvitation"]["status"])

def try_(who):
    out = []
    for f, arguments in ((who.describe_mesh, {}), (who.create_virtual_node, dict(virtualNodeName="pay", spec={})), (who.create_virtual_node, dict(virtualNodeName="other", spec={})),
                         (who.create_virtual_gateway, dict(virtualGatewayName="g", spec={"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}))):
        try:
            f(meshName="apps", meshOwner=A, **arguments)
            out.append("ok")
        except exceptions.ClientError as e:
            out.append(e.response["Error"]["Code"])
    for n in ("pay", "other"):
        try:
            bm.delete_virtual_node(meshName="apps", meshOwner=A, virtualNodeName=n)
        except exceptions.ClientError:
            pass
    return out
def app(*user_):
    return client("appmesh", key=user(ib, *user_))
pay = "arn:aws:appmesh:us-east-1:%s:mesh/apps/virtualNode/pay" % B
for who in (app("full", ["AWSAppMeshFullAccess"]), app("reads", ["AWSAppMeshReadOnly"]), app("one", ["AWSAppMeshReadOnly"], allow("appmesh:CreateVirtualNode", pay)),
            app("denied", ["AWSAppMeshFullAccess"], allow("appmesh:CreateVirtualNode", pay, "Deny"))):
    soon(who.describe_mesh, meshName="apps", meshOwner=A)
    print(try_(who))
print(try_(client("appmesh", key=user(ib, "nothing"))))
`)
		want := `403 AccessDeniedException: User: arn:aws:iam::222222222222:user/no is not authorized to perform: ram:AcceptResourceShareInvitation
ACCEPTED
['ok', 'ok', 'ok', 'ForbiddenException']
['ok', 'AccessDeniedException', 'AccessDeniedException', 'ForbiddenException']
['ok', 'ok', 'AccessDeniedException', 'ForbiddenException']
['ok', 'AccessDeniedException', 'ok', 'ForbiddenException']
['AccessDeniedException', 'AccessDeniedException', 'AccessDeniedException', 'ForbiddenException']`
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}
