package mesh_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// viewOf resolves the client's view of the resources.
func viewOf(client api.Key, resources ...*api.Resource) (*mesh.View, []mesh.Problem) {
	view, problems, _ := mesh.NewSnapshot(1, resources).View(mesh.Client{Key: client})
	return view, problems
}

func calling(name string, backends ...string) *api.Resource {
	spec := &api.VirtualNodeSpec{}
	for _, b := range backends {
		spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: b}})
	}
	return &api.Resource{Key: worldKey(api.KindVirtualNode, "", name), Spec: spec}
}

func made(kind api.Kind, parent, name string, spec any) *api.Resource {
	return &api.Resource{Key: worldKey(kind, parent, name), Spec: spec}
}

func TestBackends(t *testing.T) {
	front := worldKey(api.KindVirtualNode, "", "front")
	theMesh := made(api.KindMesh, "", "", &api.MeshSpec{})
	web := made(api.KindVirtualService, "", "web", &api.VirtualServiceSpec{})
	for _, test := range []struct {
		name    string
		backend string
		found   bool
		problem string
	}{
		{"VN-023 by name", "web", true, ""},
		{"VN-023 by ARN", "arn:aws:appmesh:us-east-1:123456789012:mesh/m/virtualService/web", true, ""},
		{"ARN of another mesh", "arn:aws:appmesh:us-east-1:123456789012:mesh/other/virtualService/web", false, "is no virtual service of this mesh"},
		{"ARN of a node", "arn:aws:appmesh:us-east-1:123456789012:mesh/m/virtualNode/web", false, "is no virtual service of this mesh"},
		{"ARN of another service", "arn:aws:s3:::bucket", false, "is no virtual service of this mesh"},
		{"VN-025 of a service that does not exist", "absent", false, "virtual service absent does not exist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			view, problems := viewOf(front, theMesh, web, calling("front", test.backend))
			if found := len(view.Backends) == 1 && view.Backends[0].Service.Resource == web; found != test.found {
				t.Errorf("found: %v, want %v", found, test.found)
			}
			if test.problem == "" && len(problems) == 0 {
				return
			}
			if len(problems) != 1 || test.problem == "" || problems[0].Key != front || problems[0].Reason != mesh.ReasonNotFound || !strings.Contains(problems[0].Message, test.problem) {
				t.Errorf("problems %v, want one of %v with %q", problems, front, test.problem)
			}
		})
	}
}

// TestTargetsOfEveryKind resolves the weighted targets of each kind of route
// and the target of each kind of gateway route.
func TestTargetsOfEveryKind(t *testing.T) {
	targets := []api.WeightedTarget{{VirtualNode: "a", Weight: 1}, {VirtualNode: "gone", Weight: 1}}
	to := api.GatewayRouteTarget{VirtualService: api.GatewayRouteVirtualService{VirtualServiceName: "web"}}
	a := calling("a")
	resources := []*api.Resource{
		made(api.KindMesh, "", "", &api.MeshSpec{}), a, calling("front", "web"),
		made(api.KindVirtualService, "", "web", &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: "r"}}}),
		made(api.KindVirtualRouter, "", "r", &api.VirtualRouterSpec{}),
		made(api.KindRoute, "r", "grpc", &api.RouteSpec{GRPCRoute: &api.GRPCRoute{Action: api.GRPCRouteAction{WeightedTargets: targets}}}),
		made(api.KindRoute, "r", "http", &api.RouteSpec{HTTPRoute: &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: targets}}}),
		made(api.KindRoute, "r", "http2", &api.RouteSpec{HTTP2Route: &api.HTTPRoute{Action: api.HTTPRouteAction{WeightedTargets: targets}}}),
		made(api.KindRoute, "r", "nothing", &api.RouteSpec{}),
		made(api.KindRoute, "r", "tcp", &api.RouteSpec{TCPRoute: &api.TCPRoute{Action: api.TCPRouteAction{WeightedTargets: targets}}}),
		made(api.KindVirtualGateway, "", "g", &api.VirtualGatewaySpec{}),
		made(api.KindGatewayRoute, "g", "grpc", &api.GatewayRouteSpec{GRPCRoute: &api.GRPCGatewayRoute{Action: api.GRPCGatewayRouteAction{Target: to}}}),
		made(api.KindGatewayRoute, "g", "http", &api.GatewayRouteSpec{HTTPRoute: &api.HTTPGatewayRoute{Action: api.HTTPGatewayRouteAction{Target: to}}}),
		made(api.KindGatewayRoute, "g", "http2", &api.GatewayRouteSpec{HTTP2Route: &api.HTTPGatewayRoute{Action: api.HTTPGatewayRouteAction{Target: to}}}),
		made(api.KindGatewayRoute, "g", "nothing", &api.GatewayRouteSpec{}),
	}
	view, problems := viewOf(worldKey(api.KindVirtualNode, "", "front"), resources...)
	got := map[string][]*api.Resource{}
	for _, r := range view.Backends[0].Service.Router.Routes {
		got[r.Key.Name] = r.Targets
	}
	want := map[string][]*api.Resource{"grpc": {a, nil}, "http": {a, nil}, "http2": {a, nil}, "nothing": nil, "tcp": {a, nil}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if len(problems) != 4 {
		t.Errorf("problems %v, want one for each route with a target that does not exist", problems)
	}
	if view.Resource() != view.Node || view.Node.Key.Name != "front" {
		t.Errorf("the view is of %v", view.Resource())
	}
	view, problems = viewOf(worldKey(api.KindVirtualGateway, "", "g"), resources...)
	for _, r := range view.GatewayRoutes {
		if reached := r.Service != nil; reached != (r.Key.Name != "nothing") {
			t.Errorf("gateway route %s reaches a service: %v", r.Key.Name, reached)
		}
	}
	if len(view.GatewayRoutes) != 4 || len(problems) != 4 || view.Resource() != view.Gateway {
		t.Errorf("%d gateway routes, problems %v", len(view.GatewayRoutes), problems)
	}
}

// TestNoView is about clients that are none.
func TestNoView(t *testing.T) {
	router := made(api.KindVirtualRouter, "", "r", &api.VirtualRouterSpec{})
	for _, key := range []api.Key{worldKey(api.KindVirtualNode, "", "gone"), router.Key} {
		if view, _ := viewOf(key, router); view != nil {
			t.Errorf("%v has a view", key)
		}
	}
	node := calling("n")
	view, problems := viewOf(node.Key, node)
	if view == nil || len(problems) != 1 || !strings.Contains(problems[0].Message, "mesh m does not exist") {
		t.Errorf("without its mesh: %v, problems %v", view, problems)
	}
	var none *mesh.View
	if none.Equal(view) || !none.Equal(nil) {
		t.Error("no view is equal to one, or not to none")
	}
}
