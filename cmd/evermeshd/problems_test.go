package main

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// What cannot be translated is told to whoever follows the resource's rollout,
// not only in the log of the replica that found it.
func TestRolloutNamesProblems(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	p := start(t, dir, "--auth", "off")
	call := func(operation string, in, out any) {
		t.Helper()
		if err := p.call(ctx, operation, in, out); err != nil {
			t.Fatal(err)
		}
	}
	call("CreateMesh", api.CreateMeshInput{MeshName: "shop"}, nil)
	call("CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "front", "spec": map[string]any{
		"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": 8080, "protocol": "http"}}},
		"backends":         []any{map[string]any{"virtualService": map[string]any{"virtualServiceName": "nowhere.local"}}},
		"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "front.local"}},
	}}, nil)

	facts, err := client.ReadFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Delta: true})

	var out api.DescribeRolloutOutput
	eventually(t, "the rollout is done and names the backend that does not exist", func() bool {
		call("DescribeRollout", map[string]any{"resourceArn": "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/front"}, &out)
		return out.Rollout.State == api.RolloutStateDone && len(out.Rollout.Problems) > 0
	})
	for _, problem := range out.Rollout.Problems {
		if problem.Reason != "NotFound" || !strings.Contains(problem.Message, "spec.backends[0]") {
			t.Errorf("problem %+v: want one that names the member", problem)
		}
	}
}
