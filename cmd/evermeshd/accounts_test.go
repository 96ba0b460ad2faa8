package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// keyIn reads a key as AWS's tools do.
func keyIn(t *testing.T, file string) aws.Credentials {
	t.Helper()
	c, err := awsconfig.LoadDefaultConfig(t.Context(), awsconfig.WithSharedCredentialsFiles([]string{file}), awsconfig.WithSharedConfigFiles(nil))
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// proxy connects as a node, signed with a key.
func proxy(t *testing.T, address, node string, key aws.Credentials) *adstest.Proxy {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithAuthority("evermesh"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(adstest.Signing{Key: key}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return adstest.Connect(t, conn, adstest.Options{Node: node, Instance: node + key.AccessKeyID, Delta: true})
}

// Two accounts with a mesh and a node of equal names, and a backend each: what
// one of them has, neither the other's API calls nor its proxies ever see (D1).
func TestTwoAccountsOfEqualNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir)
	facts, err := client.ReadFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	const firstID, otherID = "000000000000", "111122223333"
	if code := run(t.Context(), []string{"account", "add", "--data-dir", dir, otherID}); code != 0 {
		t.Fatalf("account add: exit code %d", code)
	}
	type tenant struct {
		key    aws.Credentials
		client *client.Client
		proxy  *adstest.Proxy
	}
	tenants := map[string]*tenant{}
	for id, file := range map[string]string{firstID: "credentials", otherID: "credentials-" + otherID} {
		key := keyIn(t, filepath.Join(dir, file))
		c, err := client.New(client.Config{Endpoint: facts.APIEndpoint, Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return key, nil })})
		if err != nil {
			t.Fatal(err)
		}
		tenants[id] = &tenant{key: key, client: c}
	}
	call := func(id, operation, input string) (string, error) {
		var out json.RawMessage
		err := tenants[id].client.Call(t.Context(), operation, json.RawMessage(input), &out)
		return string(out), err
	}
	must := func(id, operation, input string) string {
		t.Helper()
		out, err := call(id, operation, input)
		if err != nil {
			t.Fatalf("%s %s: %v", id, operation, err)
		}
		return out
	}
	eventually(t, "the other account's key is known", func() bool {
		_, err := call(otherID, "ListMeshes", `{}`)
		return err == nil
	})
	// The first account's meshes come first, so that an other that fell into them
	// would be refused as taken.
	for _, id := range []string{firstID, otherID} {
		must(id, "CreateMesh", `{"meshName":"apps"}`)
		must(id, "CreateVirtualNode", fmt.Sprintf(`{"meshName":"apps","virtualNodeName":"server","spec":{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}],"serviceDiscovery":{"dns":{"hostname":"of-%s.test"}}}}`, id))
		must(id, "CreateVirtualService", `{"meshName":"apps","virtualServiceName":"shop.test","spec":{"provider":{"virtualNode":{"virtualNodeName":"server"}}}}`)
		must(id, "CreateVirtualNode", `{"meshName":"apps","virtualNodeName":"client","spec":{"backends":[{"virtualService":{"virtualServiceName":"shop.test"}}]}}`)
	}
	other := map[string]string{firstID: otherID, otherID: firstID}
	for id, tenant := range tenants {
		if out := must(id, "DescribeVirtualNode", `{"meshName":"apps","virtualNodeName":"server"}`); !strings.Contains(out, "of-"+id+".test") || strings.Contains(out, other[id]) {
			t.Errorf("%s reads %s", id, out)
		}
		if out := must(id, "ListMeshes", `{}`); strings.Contains(out, other[id]) || strings.Count(out, `"meshName"`) != 1 {
			t.Errorf("%s lists %s", id, out)
		}
		tenant.proxy = proxy(t, facts.XDSEndpoint[len("http://"):], "mesh/apps/virtualNode/client", tenant.key)
	}
	has := func(id string) string {
		var text strings.Builder
		for _, c := range tenants[id].proxy.Clusters(t) {
			text.WriteString(c.String())
		}
		for _, r := range tenants[id].proxy.Routes(t) {
			text.WriteString(r.String())
		}
		return text.String()
	}
	for id, tenant := range tenants {
		tenant.proxy.Wait(t, "the account's own backend", func() bool {
			return strings.Contains(has(id), "of-"+id+".test") && len(tenant.proxy.Routes(t)) > 0 // what comes last
		})
	}
	// A change of one reaches that one's proxy, and nothing of it the other's.
	quiet := len(tenants[firstID].proxy.Responses())
	must(otherID, "UpdateVirtualNode", fmt.Sprintf(`{"meshName":"apps","virtualNodeName":"server","spec":{"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}],"serviceDiscovery":{"dns":{"hostname":"new-of-%s.test"}}}}`, otherID))
	tenants[otherID].proxy.Wait(t, "the change", func() bool { return strings.Contains(has(otherID), "new-of-"+otherID+".test") })
	must(otherID, "DeleteVirtualNode", `{"meshName":"apps","virtualNodeName":"client"}`)
	if more := tenants[firstID].proxy.Responses()[quiet:]; len(more) > 0 {
		t.Errorf("the first account's proxy was sent %s", more)
	}
	for id := range tenants {
		if strings.Contains(has(id), other[id]) {
			t.Errorf("the proxy of %s has something of the other:\n%s", id, has(id))
		}
	}
	if out := must(firstID, "DescribeVirtualNode", `{"meshName":"apps","virtualNodeName":"client"}`); !strings.Contains(out, "ACTIVE") {
		t.Errorf("the first account's node is %s", out)
	}
	// Nobody gets in by naming the other.
	for id := range tenants {
		for _, operation := range []string{"DescribeVirtualNode", "DeleteVirtualNode"} {
			if out, err := call(id, operation, fmt.Sprintf(`{"meshName":"apps","virtualNodeName":"server","meshOwner":"%s"}`, other[id])); err == nil || !strings.Contains(err.Error(), api.CodeForbidden) {
				t.Errorf("%s may %s of the other: %s, %v", id, operation, out, err)
			}
		}
		stranger := proxy(t, facts.XDSEndpoint[len("http://"):], "mesh/apps@"+other[id]+"/virtualNode/server", tenants[id].key)
		stranger.Wait(t, "the refusal", func() bool { return len(stranger.Ends()) > 0 })
		if code, text := adstest.Status(stranger.Ends()[0]); code != codes.PermissionDenied {
			t.Errorf("%s's proxy in the other's mesh: %v %s", id, code, text)
		}
		if n := len(stranger.Responses()); n > 0 {
			t.Errorf("%s's proxy in the other's mesh was sent %s", id, stranger.Responses())
		}
	}
}
