package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
import time
from botocore import exceptions
theirs = dict(aws_access_key_id=%q, aws_secret_access_key=%q)
ram, mesh, guests, guestmesh = boto3.client("ram"), boto3.client("appmesh"), boto3.client("ram", **theirs), boto3.client("appmesh", **theirs)
where = dict(meshName="apps", meshOwner="000000000000")
`, theirs.AccessKeyID, theirs.SecretAccessKey)
	a.python(t, clients+`
mesh.create_mesh(meshName="apps")
ram.create_resource_share(name="apps", resourceArns=["arn:aws:appmesh:us-east-1:000000000000:mesh/apps"], principals=["`+guest+`"])
for _ in range(200):
    try: # until the key is known
        i, = guests.get_resource_share_invitations()["resourceShareInvitations"]
        break
    except exceptions.ClientError:
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
		began := time.Now()
		for _, p := range []*adstest.Proxy{p, mine, connect()} {
			p.Wait(t, "the stream ends", func() bool { return len(p.Ends()) > 0 })
			code, text := adstest.Status(p.Ends()[0])
			want := "Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:" + guest + ":mesh/apps/virtualNode/g."
			if code != codes.PermissionDenied || text != want {
				t.Errorf("it ended with %v %q", code, text)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("that took %v", took)
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
