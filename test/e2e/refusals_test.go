//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// TestRefusals asks for what App Mesh refuses. Whatever is refused changes nothing: traffic goes where it went.
func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "refusals", "DROP_ALL")
	m.app("blue")
	m.create("VirtualNode", "ports", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}, {"portMapping": {"port": 9081, "protocol": "http"}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, m.hostname("blue")))
	service := m.service("shop", appPort, map[string]string{"r": weighted("", "blue", 1)})
	m.create("VirtualRouter", "two", `{"listeners": [{"portMapping": {"port": 8000, "protocol": "http"}}, {"portMapping": {"port": 8001, "protocol": "http"}}]}`)
	m.create("VirtualGateway", "front", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`)
	m.create("VirtualGateway", "doors", `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}, {"portMapping": {"port": 8089, "protocol": "http"}}]}`)
	m.put("Create", "GatewayRoute", "front", "all", toService(service, `{"prefix": "/"}`, ""))
	m.create("VirtualNode", "client", callerSpec(service))
	client, front := m.host("client"), m.host("front")
	inside := m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	gateway := m.sidecar(front, stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true})
	updates := func() int {
		return m.stat(inside, fmt.Sprintf("http.egress.rds.rds_egress_http_%d.update_success", appPort)) + m.stat(gateway, "http.ingress.rds.rds_ingress_http_8088.update_success")
	}
	before := updates()

	var headers []string
	for n := range 11 {
		headers = append(headers, fmt.Sprintf(`{"name": "X-%d"}`, n))
	}
	target := `"action": {"weightedTargets": [{"virtualNode": "blue", "weight": 1}]}`
	route := func(router, spec string) [2]string {
		return [2]string{"CreateRoute", fmt.Sprintf(`{"virtualRouterName": %q, "routeName": "new", "spec": %s}`, router, spec)}
	}
	gatewayRoute := func(gateway, spec string) [2]string {
		return [2]string{"CreateGatewayRoute", fmt.Sprintf(`{"virtualGatewayName": %q, "gatewayRouteName": "new", "spec": %s}`, gateway, spec)}
	}
	toShop := fmt.Sprintf(`"action": {"target": {"virtualService": {"virtualServiceName": %q}}}`, service)
	for name, c := range map[string][2]string{
		"RT-002 two protocols in a route":                  route("shop", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/"}, %s}, "http2Route": {"match": {"prefix": "/"}, %s}}`, target, target)),
		"RT-002 no protocol in a route":                    route("shop", `{}`),
		"RT-007 a target of several listeners, no port":    route("shop", `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "ports", "weight": 1}]}}}`),
		"RT-010 no targets":                                route("shop", `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": []}}}`),
		"RT-020 a router of several listeners, no port":    route("two", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/"}, %s}}`, target)),
		"RT-021 eleven headers":                            route("shop", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/", "headers": [%s]}, %s}}`, strings.Join(headers, ","), target)),
		"RT-026 a gRPC method without its service":         route("shop", fmt.Sprintf(`{"grpcRoute": {"match": {"methodName": "Get"}, %s}}`, target)),
		"RT-005 a priority of 1001":                        route("shop", fmt.Sprintf(`{"priority": 1001, "httpRoute": {"match": {"prefix": "/"}, %s}}`, target)),
		"GR-002 two protocols in a gateway route":          gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/"}, %s}, "http2Route": {"match": {"prefix": "/"}, %s}}`, toShop, toShop)),
		"GR-007 a gateway of several listeners, no port":   gatewayRoute("doors", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/x"}, %s}}`, toShop)),
		"GR-010 a reserved prefix":                         gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/aws-appmesh-x"}, %s}}`, toShop)),
		"GR-010 the other reserved prefix":                 gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/aws-app-mesh"}, %s}}`, toShop)),
		"GR-011 a reserved gRPC service":                   gatewayRoute("front", fmt.Sprintf(`{"grpcRoute": {"match": {"serviceName": "aws.app-mesh.x"}, %s}}`, toShop)),
		"GR-024 a prefix and a path":                       gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/x", "path": {"exact": "/x"}}, %s}}`, toShop)),
		"GR-024 a prefix that does not begin with a slash": gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "x"}, %s}}`, toShop)),
		"GR-015 a prefix rewrite without a prefix match":   gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"path": {"exact": "/x"}}, %s}}`, strings.Replace(toShop, `"target"`, `"rewrite": {"prefix": {"value": "/y/"}}, "target"`, 1))),
		"GR-016 a path rewrite with a prefix match":        gatewayRoute("front", fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/x"}, %s}}`, strings.Replace(toShop, `"target"`, `"rewrite": {"path": {"exact": "/y"}}, "target"`, 1))),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.try(c[0], c[1])
			var refusal *api.Error
			if !errors.As(err, &refusal) || refusal.Code != api.CodeBadRequest {
				t.Fatalf("%v, want a BadRequestException", err)
			}
			t.Log(refusal.Message)
			for h, url := range map[*stage.Sidecar]string{inside: fmt.Sprintf("http://%s:%d/", service, appPort), gateway: "http://" + front.Addr().String() + ":8088/"} {
				from := h.Host
				if h == gateway {
					from = m.host("visitor")
				}
				if a := ask(t, from, request{URL: url}); a.App != "blue" {
					t.Errorf("afterwards: %d %s", a.Status, a.Body)
				}
			}
		})
	}
	if after := updates(); after != before {
		t.Errorf("the proxies got %d updates of refused routes", after-before)
	}
	t.Run("RT-041 a deleted route is told as such, and gone", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		var out struct {
			Route struct {
				RouteName, VirtualRouterName, MeshName string
				Status                                 struct{ Status string }
			}
		}
		in := map[string]any{"meshName": m.name, "virtualRouterName": "shop", "routeName": "r"}
		if err := m.control.Evermesh.Call(ctx, "DeleteRoute", in, &out); err != nil {
			t.Fatal(err)
		}
		if r := out.Route; r.Status.Status != "DELETED" || r.RouteName != "r" || r.VirtualRouterName != "shop" || r.MeshName != m.name {
			t.Errorf("answered %+v", r)
		}
		if err := stage.Until(ctx, "nothing answers any more", func(context.Context) bool {
			return ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}).Status == 404
		}); err != nil {
			t.Error(err)
		}
	})
}
