package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/client"
)

// A mesh is shared at one replica and the guest's proxy connects to another; a third one,
// which has just started, knows the share at once. When it ends, it ends everywhere.
func TestSharesActOnEveryReplica(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	args := []string{"--etcd-endpoints", e.endpoint, "--master-key-file", key}
	a, b := start(t, t.TempDir(), args...), start(t, t.TempDir(), args...)
	const guest = "111122223333"
	file := filepath.Join(t.TempDir(), "credentials")
	if code := run(t.Context(), append([]string{"account", "add", guest, "--data-dir", a.dir, "--credentials-file", file}, args...)); code != 0 {
		t.Fatalf("account add: exit code %d", code)
	}
	theirs := keyIn(t, file)
	clients := fmt.Sprintf(`
from botocore import exceptions
theirs = dict(aws_access_key_id=%q, aws_secret_access_key=%q)
ram, mesh, guests, guestmesh = boto3.client("ram"), boto3.client("appmesh"), boto3.client("ram", **theirs), boto3.client("appmesh", **theirs)
where = dict(meshName="apps", meshOwner="000000000000")
`, theirs.AccessKeyID, theirs.SecretAccessKey)
	a.python(t, clients+`
mesh.create_mesh(meshName="apps")
mesh.create_virtual_node(meshName="apps", virtualNodeName="n", spec={})
ram.create_resource_share(name="apps", resourceArns=["arn:aws:appmesh:us-east-1:000000000000:mesh/apps"], principals=["`+guest+`"])
deadline = time.monotonic() + 30
while True:
    try: # until the key is known
        i, = guests.get_resource_share_invitations()["resourceShareInvitations"]
        break
    except exceptions.ClientError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.02)
guests.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
# At this replica it acts with the answer.
guestmesh.create_virtual_node(virtualNodeName="g", spec={}, **where)
`)
	facts, err := client.ReadFacts(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimPrefix(facts.XDSEndpoint, "http://")
	connect := func() *adstest.Proxy { return proxy(t, at, "mesh/apps@000000000000/virtualNode/g", theirs) }
	p := connect()
	p.Wait(t, "the guest's proxy has its configuration", func() bool { return len(p.Responses()) > 0 })
	mine := proxy(t, at, "arn:aws:appmesh:us-east-1:"+guest+":mesh/apps/virtualNode/g", theirs)
	mine.Wait(t, "so has one that names the ARN", func() bool { return len(mine.Responses()) > 0 })

	// refused is how the guest's stream for a node ends.
	refused := func(t *testing.T, node string) string {
		p := proxy(t, at, node, theirs)
		p.Wait(t, "the stream ends", func() bool { return len(p.Ends()) > 0 })
		code, text := adstest.Status(p.Ends()[0])
		return fmt.Sprintf("%d %s", code, text)
	}
	t.Run("EMS-009 who may come into the mesh is told what is not there", func(t *testing.T) {
		const absent = "mesh/apps@000000000000/virtualNode/absent"
		if got, want := refused(t, absent), "3 "+absent+" does not exist: create it, or correct APPMESH_RESOURCE_ARN."; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("SHARE-004 a replica that has just started knows it", func(t *testing.T) {
		c := start(t, t.TempDir(), args...)
		if got := c.python(t, clients+`print(guestmesh.describe_virtual_node(virtualNodeName="g", **where)["virtualNode"]["metadata"]["resourceOwner"])`); got != guest {
			t.Errorf("the node is of %s", got)
		}
	})
	t.Run("SHARE-019 its end closes streams at every replica", func(t *testing.T) {
		a.python(t, clients+`
ram.delete_resource_share(resourceShareArn=ram.get_resource_shares(resourceOwner="SELF")["resourceShares"][0]["resourceShareArn"])
`)
		for _, p := range []*adstest.Proxy{p, mine, connect()} {
			p.Wait(t, "the stream ends", func() bool { return len(p.Ends()) > 0 })
			code, text := adstest.Status(p.Ends()[0])
			want := "Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:" + guest + ":mesh/apps/virtualNode/g."
			if code != codes.PermissionDenied || text != want {
				t.Errorf("it ended with %v %q", code, text)
			}
		}
		// Nor is the guest told any more what there is in that mesh.
		for form, want := range map[string]string{
			"mesh/apps@000000000000/virtualNode/%s":                           "apps/virtualNode/%s",
			"mesh/none@000000000000/virtualNode/%s":                           "none/virtualNode/%s",
			"arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/%s": "apps/virtualNode/%s",
		} {
			for _, name := range []string{"n", "absent"} {
				want := fmt.Sprintf("7 Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:000000000000:mesh/"+want+".", name)
				if got := refused(t, fmt.Sprintf(form, name)); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		}
		got := b.python(t, clients+`
try:
    guestmesh.describe_virtual_node(virtualNodeName="g", **where)
except exceptions.ClientError as e:
    print(e.response["Error"]["Code"])
print(mesh.describe_virtual_node(meshName="apps", virtualNodeName="g")["virtualNode"]["metadata"]["resourceOwner"])
`)
		if got != "ForbiddenException\n"+guest {
			t.Errorf("got %s", got)
		}
	})
}

// Somebody of another account gets at a mesh by a role of the owner's or by a share of
// the mesh, and by nothing else: there is no policy, and no share, of a single resource.
func TestWaysIntoAnotherAccountsMesh(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	const guest = "111122223333"
	file := filepath.Join(t.TempDir(), "credentials")
	if code := run(t.Context(), []string{"account", "add", guest, "--data-dir", p.dir, "--credentials-file", file}); code != 0 {
		t.Fatalf("account add: exit code %d", code)
	}
	theirs := keyIn(t, file)
	got := p.python(t, fmt.Sprintf(`
from botocore import exceptions
theirs = dict(aws_access_key_id=%q, aws_secret_access_key=%q)
owner, guest, name = "000000000000", %q, "arn:aws:appmesh:us-east-1:000000000000:mesh/apps"
def result(f, **arguments):
    try:
        f(**arguments)
        return "done"
    except exceptions.ClientError as e:
        return e.response["Error"]["Code"]
def until(want, f, **arguments):
    deadline = time.monotonic() + 30
    while (got := result(f, **arguments)) != want and time.monotonic() < deadline: # until the key, or what was written, is known
        time.sleep(0.02)
    return got
def policy(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [dict(Effect="Allow", **statement)]})
mesh, iam, ram = (boto3.client(s) for s in ("appmesh", "iam", "ram"))
mesh.create_mesh(meshName="apps")
mesh.create_virtual_node(meshName="apps", virtualNodeName="n", spec={})
node = dict(meshName="apps", virtualNodeName="n", meshOwner=owner)
print("nothing", until("ForbiddenException", boto3.client("appmesh", **theirs).describe_virtual_node, **node))
# The guest's own policies give nothing in the account of another.
their_iam = boto3.client("iam", **theirs)
their_iam.create_user(UserName="u")
their_iam.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=policy(Action="*", Resource="*"))
k = their_iam.create_access_key(UserName="u")["AccessKey"]
user = dict(aws_access_key_id=k["AccessKeyId"], aws_secret_access_key=k["SecretAccessKey"])
print("policies", until("ForbiddenException", boto3.client("appmesh", **user).describe_virtual_node, **node))
# A single resource is not shared, and has no policy: there is no such operation.
for arn in (name + "/virtualNode/n", name + "/virtualRouter/r"):
    print("single", result(ram.create_resource_share, name="one", resourceArns=[arn], principals=[guest]) != "done", result(boto3.client("appmesh", **user).describe_virtual_node, **node))
print("operations", [o for o in mesh.meta.service_model.operation_names if "Policy" in o])
# A role of the owner's.
iam.create_role(RoleName="guests", AssumeRolePolicyDocument=policy(Principal={"AWS": "arn:aws:iam::%%s:user/u" %% guest}, Action="sts:AssumeRole"))
iam.put_role_policy(RoleName="guests", PolicyName="p", PolicyDocument=policy(Action="appmesh:DescribeVirtualNode", Resource="*"))
sts = boto3.client("sts", **user)
role = dict(RoleArn="arn:aws:iam::%%s:role/guests" %% owner, RoleSessionName="session")
until("done", sts.assume_role, **role)
c = sts.assume_role(**role)["Credentials"]
session = boto3.client("appmesh", aws_access_key_id=c["AccessKeyId"], aws_secret_access_key=c["SecretAccessKey"], aws_session_token=c["SessionToken"])
print("role", until("done", session.describe_virtual_node, meshName="apps", virtualNodeName="n"), result(session.describe_mesh, meshName="apps"))
# A share of the mesh.
ram.create_resource_share(name="apps", resourceArns=[name], principals=[guest])
their_ram = boto3.client("ram", **theirs)
i, = their_ram.get_resource_share_invitations()["resourceShareInvitations"]
their_ram.accept_resource_share_invitation(resourceShareInvitationArn=i["resourceShareInvitationArn"])
print("share", until("done", boto3.client("appmesh", **user).describe_virtual_node, **node))
boto3.client("appmesh", **theirs).create_mesh(meshName="mine")
print("listed", sorted((m["meshName"], m["meshOwner"], m["resourceOwner"]) for m in boto3.client("appmesh", **theirs).list_meshes()["meshes"]))
print("theirs", sorted((m["meshName"], m["meshOwner"], m["resourceOwner"]) for m in mesh.list_meshes()["meshes"]))
`, theirs.AccessKeyID, theirs.SecretAccessKey, guest))
	for name, lines := range map[string]string{
		"TRBL-035 nothing by itself":                   "nothing ForbiddenException",
		"TRBL-035 not by policies of their own":        "policies ForbiddenException",
		"TRBL-035 not by a share of a single resource": "single True ForbiddenException\nsingle True ForbiddenException",
		"TRBL-035 not by a policy of a resource":       "operations []",
		"TRBL-035 by a role of the owner's":            "role done AccessDeniedException",
		"TRBL-035 by a share of the mesh":              "share done",
		"API-028 own and shared meshes are listed":     "listed [('apps', '000000000000', '000000000000'), ('mine', '" + guest + "', '" + guest + "')]",
		"API-028 and no others":                        "theirs [('apps', '000000000000', '000000000000')]",
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(got+"\n", lines+"\n") {
				t.Errorf("got\n%s\nwant %s", got, lines)
			}
		})
	}
}
