//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"
	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/client"
)

// everything describes all that the API has, with tags: by path.
func everything(t *testing.T, r *replica, key aws.Credentials) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.New(client.Config{
		Endpoint: "http://" + r.api, Region: "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return key, nil }),
	})
	must(t, err)
	out := map[string]any{}
	var walk func(kinds [][2]string, in map[string]any, path string)
	walk = func(kinds [][2]string, in map[string]any, path string) {
		for _, kind := range kinds {
			operation, name := kind[0], kind[1]
			list := map[string]any{}
			plural := operation + "s"
			if operation == "Mesh" {
				plural = "Meshes"
			}
			must(t, c.Call(ctx, "List"+plural, in, &list))
			for member, items := range list {
				if member == "nextToken" {
					t.Fatalf("List%s has more than a page", plural)
				}
				for _, item := range items.([]any) {
					named := map[string]any{name: item.(map[string]any)[name]}
					maps.Copy(named, in)
					var is, tags map[string]any
					must(t, c.Call(ctx, "Describe"+operation, named, &is))
					must(t, c.Call(ctx, "ListTagsForResource", map[string]any{"resourceArn": item.(map[string]any)["arn"]}, &tags))
					at := path + "/" + operation + "/" + fmt.Sprint(named[name])
					out[at] = map[string]any{"is": is, "listed": item, "tags": tags["tags"]}
					walk(below[operation], named, at)
				}
			}
		}
	}
	walk([][2]string{{"Mesh", "meshName"}}, map[string]any{}, "")
	return out
}

func compareEverything(t *testing.T, what string, want, got map[string]any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: no (-want +got):\n%s", what, diff)
	}
	if len(want) < 5 {
		t.Errorf("%s: there are only %d resources", what, len(want))
	}
}

// below are the kinds below a kind, with the members that name them.
var below = map[string][][2]string{
	"Mesh": {
		{"VirtualNode", "virtualNodeName"},
		{"VirtualService", "virtualServiceName"},
		{"VirtualRouter", "virtualRouterName"},
		{"VirtualGateway", "virtualGatewayName"},
	},
	"VirtualRouter":  {{"Route", "routeName"}},
	"VirtualGateway": {{"GatewayRoute", "gatewayRouteName"}},
}

// TestMovedToExternalEtcd moves a control plane with embedded etcd, which has proxies and a load, to an external etcd, by
// backup and restore. No proxy behind an agent, which speaks delta, is sent anything, no read is refused by both, and all is as it was. The backup that is made under writes is restored too.
func TestMovedToExternalEtcd(t *testing.T) {
	t.Parallel()
	old := newReplica(t, "embedded").start()
	c, key := old.user(), old.key()
	must(t, makeShop(t.Context(), c, "move", 90, 10))
	gateway := "edge"
	mesh := "move"
	_, err := c.CreateVirtualGateway(t.Context(), &appmesh.CreateVirtualGatewayInput{
		MeshName: &mesh, VirtualGatewayName: &gateway,
		Tags: []types.TagRef{{Key: aws.String("team"), Value: aws.String("edge <&>")}, {Key: aws.String("empty"), Value: aws.String("")}},
		Spec: &types.VirtualGatewaySpec{Listeners: []types.VirtualGatewayListener{
			{PortMapping: &types.VirtualGatewayPortMapping{Port: aws.Int32(9080), Protocol: types.VirtualGatewayPortProtocolHttp}},
		}},
	})
	must(t, err)
	_, err = c.CreateGatewayRoute(t.Context(), &appmesh.CreateGatewayRouteInput{
		MeshName: &mesh, VirtualGatewayName: &gateway, GatewayRouteName: aws.String("in"),
		Spec: &types.GatewayRouteSpec{HttpRoute: &types.HttpGatewayRoute{
			Match: &types.HttpGatewayRouteMatch{Prefix: aws.String("/")},
			Action: &types.HttpGatewayRouteAction{Target: &types.GatewayRouteTarget{
				VirtualService: &types.GatewayRouteVirtualService{VirtualServiceName: aws.String("shop.test")},
			}},
		}},
	})
	must(t, err)

	etcd := newCluster(t, 1)
	now := newReplica(t, "external", "--etcd-endpoints", etcd.endpoints()[0], "--master-key-file", filepath.Join(old.dir, "master-key"))
	var all proxies
	for i := range 20 {
		all = append(all, connect(t, key, "move", fmt.Sprintf("p%d", i), i%4 > 0, old.xds, now.xds))
	}
	all.have(t, 90, 10)

	// A backup under writes is one moment: what was acknowledged before it began is in it.
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	l := newLoad(t, "load", c)
	until(t, "there is some load", func() bool { return l.calls.Load() > 50 })
	before, acked := l.calls.Load(), l.acknowledged()
	busy := filepath.Join(dir, "busy")
	if code, text := old.verb("backup", "--data-dir", old.dir, busy); code != 0 {
		t.Fatalf("backup under load ended with %d: %s", code, text)
	}
	t.Logf("%d calls while the backup was made", l.calls.Load()-before)
	l.stop()
	ended := l.acknowledged()

	// The move: the last backup is made when nobody writes any more.
	reads := newReads(t, []*appmesh.Client{c, userOf("http://"+now.api, key)}, "move")
	sent := all.sent()
	want := everything(t, old, key)
	if code, text := old.verb("backup", "--data-dir", old.dir, file); code != 0 {
		t.Fatalf("backup ended with %d: %s", code, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode: %v, %v; want 0600", info.Mode(), err)
	}
	code, text := old.verb("restore", "--etcd-endpoints", etcd.endpoints()[0], file)
	if code != 0 {
		t.Fatalf("restore ended with %d: %s", code, text)
	}
	if code, text := old.verb("restore", "--etcd-endpoints", etcd.endpoints()[0], file); code == 0 {
		t.Errorf("restore into a store that is not empty ended with 0: %s", text)
	}
	now.start()
	if got := now.key(); got.AccessKeyID != key.AccessKeyID || got.SecretAccessKey != key.SecretAccessKey {
		t.Errorf("the root key is another: %s, was %s", got.AccessKeyID, key.AccessKeyID)
	}
	compareEverything(t, "what was restored is what was", want, everything(t, now, key))
	old.stop()
	// The next change reaches all of them, so all are connected; it is all that they are sent.
	user := now.user()
	must(t, shift(t.Context(), user, "move", 20, 80))
	all.have(t, 20, 80)
	all.changed(t, sent)
	reads.stop()

	// The same backup also goes into an empty data directory.
	masterKey, err := os.ReadFile(filepath.Join(old.dir, "master-key"))
	must(t, err)
	embedded := func(name, file string) *replica {
		t.Helper()
		r := newReplica(t, name)
		must(t, os.MkdirAll(r.dir, 0o700))
		if code, text := r.verb("restore", "--data-dir", r.dir, file); code != 0 {
			t.Fatalf("restore into an empty data directory ended with %d: %s", code, text)
		}
		must(t, os.WriteFile(filepath.Join(r.dir, "master-key"), masterKey, 0o600))
		return r.start()
	}
	again := embedded("again", file)
	compareEverything(t, "what was restored into embedded etcd is what was", want, everything(t, again, key))

	// So does the one that was made under writes.
	under := embedded("under", busy)
	isAsAcknowledged(t, under.user(), l.mesh, acked, ended)
	of := func(all map[string]any) map[string]any { // the mesh that nobody wrote to meanwhile
		out := maps.Clone(all)
		maps.DeleteFunc(out, func(path string, _ any) bool { return !strings.HasPrefix(path+"/", "/Mesh/move/") })
		return out
	}
	compareEverything(t, "what was restored of the backup under writes is what was", of(want), of(everything(t, under, key)))

	// A damaged backup is not restored, not even in part.
	damaged, err := os.ReadFile(file)
	must(t, err)
	damaged[len(damaged)/2] ^= 1
	must(t, os.WriteFile(file, damaged, 0o600))
	empty := newReplica(t, "empty")
	must(t, os.MkdirAll(empty.dir, 0o700))
	if code, text := empty.verb("restore", "--data-dir", empty.dir, file); code == 0 || strings.TrimSpace(text) == "" {
		t.Errorf("restore of a damaged backup ended with %d: %q", code, text)
	} else {
		t.Logf("damaged: exit code %d: %s", code, strings.TrimSpace(text))
	}
}

// isAsAcknowledged checks what a backup under a load has of the load's nodes: at least what was acknowledged before it
// began, and nothing that was written after it ended; a node's text says with which write it came.
func isAsAcknowledged(t *testing.T, c *appmesh.Client, mesh string, before, after map[string]state) {
	t.Helper()
	if len(before) == 0 {
		t.Error("nothing was acknowledged before the backup: nothing is shown")
	}
	for name, least := range before {
		got, err := onNode(t.Context(), c, describe, mesh, name, "", "")
		must(t, err)
		want := fmt.Sprintf("l%s-%d", strings.TrimPrefix(name, "n"), got.Version-1)
		if !got.Exists || got.UID != least.UID || got.Version < least.Version || got.Version > after[name].Version || got.Text != want {
			t.Errorf("%s is %+v in the backup, with the text of its version %s; %+v was acknowledged before it, %+v in the end", name, got, want, least, after[name])
		}
	}
	t.Logf("before the backup was acknowledged %v", before)
}

// newReads is a load that only reads: a mesh that is there all the while.
func newReads(t *testing.T, users []*appmesh.Client, mesh string) *load {
	t.Helper()
	l := &load{t: t, users: users, mesh: mesh, until: make(chan struct{}), why: map[string]int{}}
	for id := range 2 {
		l.running.Go(func() {
			for {
				select {
				case <-l.until:
					return
				default:
				}
				if s, ok := l.do(0, describe, "client", ""); ok && !s.Exists {
					t.Errorf("reader %d: the node client is not there", id)
				}
			}
		})
	}
	return l
}
