package main

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// What became of a resource, through its life: nobody has it, all accepted it,
// one refuses the next version; and what a plan says of it.
func TestExplainThroughALife(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	p := start(t, dir, "--auth", "off")
	call := func(operation string, in, out any) {
		t.Helper()
		if err := p.call(ctx, operation, in, out); err != nil {
			t.Fatal(err)
		}
	}
	spec := func(port int) map[string]any {
		return map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "front.local"}},
		}
	}
	node := map[string]any{"meshName": "shop", "virtualNodeName": "front", "spec": spec(8080)}
	call("CreateMesh", api.CreateMeshInput{MeshName: "shop"}, nil)
	call("CreateVirtualNode", node, nil)

	var now api.Explanation
	explain := func() map[api.ConditionType]api.Condition {
		t.Helper()
		var out api.ExplainOutput
		call("Explain", map[string]any{"resourceArn": "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/front"}, &out)
		now = out.Explanation
		conditions := map[api.ConditionType]api.Condition{}
		for _, c := range now.Conditions {
			conditions[c.Type] = c
		}
		return conditions
	}
	programmed := func(status api.ConditionStatus, reason string) func() bool {
		return func() bool {
			c := explain()[api.ConditionTypeProgrammed]
			return c.Status == status && c.Reason == reason
		}
	}
	if !programmed(api.ConditionStatusUnknown, "NotConnected")() {
		t.Errorf("without a proxy: %+v", now.Conditions)
	}

	facts, err := client.ReadFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Instance: "good", Delta: true})
	bad := adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Instance: "bad"})
	both := programmed(api.ConditionStatusTrue, "Programmed")
	eventually(t, "both accepted it", func() bool { return both() && now.ProxiesAffected == 2 })
	if since := explain()[api.ConditionTypeProgrammed].Since; now.ProxiesAffected != 2 || since == nil || since.Before(now.LastUpdatedAt.Time) {
		t.Errorf("%d proxies, since %v, written %v", now.ProxiesAffected, since, now.LastUpdatedAt)
	}

	var planned api.PlanOutput
	call("Plan", map[string]any{"changes": []any{map[string]any{
		"kind": "virtualNode", "input": `{"meshName":"shop","virtualNodeName":"front","spec":{"listeners":[{"portMapping":{"port":9090,"protocol":"http"}}],"serviceDiscovery":{"dns":{"hostname":"front.local"}}}}`,
	}}}, &planned)
	if got := planned.Plan.Proxies; len(got) != 1 || !got[0].Drains {
		t.Errorf("the plan says %+v", got)
	}

	bad.SetRefuse(func(r adstest.Response) string {
		if r.Type == adstest.LDS {
			return "not this listener"
		}
		return ""
	})
	node["spec"] = spec(9090)
	call("UpdateVirtualNode", node, nil)
	eventually(t, "one refuses it", programmed(api.ConditionStatusFalse, "Refused"))
	if now.ResourceVersion != 2 || len(now.Proxies) != 2 || now.Proxies[0].State != api.ProxyStateRefused {
		t.Fatalf("got %+v", now)
	}
	text := ""
	for _, s := range now.Proxies[0].Types {
		if s.Refusal != nil {
			text = s.Refusal.Message
		}
	}
	if text != "not this listener" {
		t.Errorf("the proxy's words are %q", text)
	}
	if since := explain()[api.ConditionTypeProgrammed].Since; since == nil || since.Before(now.LastUpdatedAt.Time) {
		t.Errorf("refused since %v, written %v", since, now.LastUpdatedAt)
	}
	var described api.DescribeVirtualNodeOutput
	call("DescribeVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "front"}, &described)
	if described.VirtualNode.Status.Status != "ACTIVE" {
		t.Errorf("the status became %s", described.VirtualNode.Status.Status)
	}
}
