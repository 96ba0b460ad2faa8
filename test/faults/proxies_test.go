//go:build linux

package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/evermesh/evermesh/internal/ads/adstest"
)

// makeShop makes a mesh in which the node client calls shop.test, which a route spreads over blue and green.
func makeShop(ctx context.Context, c *appmesh.Client, mesh string, blue, green int64) error {
	if err := makeMesh(ctx, c, mesh); err != nil {
		return err
	}
	for _, name := range []string{"blue", "green"} {
		if _, err := onNode(ctx, c, create, mesh, name, name, "token-"+mesh+name); err != nil {
			return err
		}
	}
	client := specOf("client")
	client.Backends = []types.Backend{&types.BackendMemberVirtualService{Value: types.VirtualServiceBackend{VirtualServiceName: aws.String("shop.test")}}}
	if _, err := c.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: aws.String("client"), Spec: client}); err != nil {
		return err
	}
	if _, err := c.CreateVirtualRouter(ctx, &appmesh.CreateVirtualRouterInput{
		MeshName: &mesh, VirtualRouterName: aws.String("shop"), Spec: &types.VirtualRouterSpec{Listeners: []types.VirtualRouterListener{
			{PortMapping: &types.PortMapping{Port: aws.Int32(8080), Protocol: types.PortProtocolHttp}},
		}},
	}); err != nil {
		return err
	}
	if _, err := c.CreateRoute(ctx, &appmesh.CreateRouteInput{
		MeshName: &mesh, VirtualRouterName: aws.String("shop"), RouteName: aws.String("main"), Spec: weighted(blue, green),
	}); err != nil {
		return err
	}
	_, err := c.CreateVirtualService(ctx, &appmesh.CreateVirtualServiceInput{
		MeshName: &mesh, VirtualServiceName: aws.String("shop.test"), Spec: &types.VirtualServiceSpec{
			Provider: &types.VirtualServiceProviderMemberVirtualRouter{Value: types.VirtualRouterServiceProvider{VirtualRouterName: aws.String("shop")}},
		},
	})
	return err
}

// widen gives makeShop's mesh what else a mesh has: a gateway edge with a route to shop.test, and a service db.test of TCP
// behind a router, which the node client calls too.
func widen(ctx context.Context, c *appmesh.Client, mesh string) error {
	gateway, port := aws.String("edge"), aws.Int32(5432)
	listener := types.PortMapping{Port: port, Protocol: types.PortProtocolTcp}
	backend := func(service string) types.Backend {
		return &types.BackendMemberVirtualService{Value: types.VirtualServiceBackend{VirtualServiceName: &service}}
	}
	db := specOf("db")
	db.Listeners = []types.Listener{{PortMapping: &listener}}
	client := specOf("client")
	client.Backends = []types.Backend{backend("shop.test"), backend("db.test")}
	client.Listeners[0].Timeout = &types.ListenerTimeoutMemberHttp{Value: types.HttpTimeout{Idle: &types.Duration{Unit: types.DurationUnitS, Value: aws.Int64(30)}}}
	var err error
	for _, do := range []func(){
		func() {
			_, err = c.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: aws.String("db"), Spec: db})
		},
		func() {
			_, err = c.CreateVirtualRouter(ctx, &appmesh.CreateVirtualRouterInput{
				MeshName: &mesh, VirtualRouterName: aws.String("db"), Spec: &types.VirtualRouterSpec{Listeners: []types.VirtualRouterListener{{PortMapping: &listener}}},
			})
		},
		func() {
			_, err = c.CreateRoute(ctx, &appmesh.CreateRouteInput{
				MeshName: &mesh, VirtualRouterName: aws.String("db"), RouteName: aws.String("all"), Spec: &types.RouteSpec{TcpRoute: &types.TcpRoute{
					Action: &types.TcpRouteAction{WeightedTargets: []types.WeightedTarget{{VirtualNode: aws.String("db"), Weight: 1}}},
				}},
			})
		},
		func() {
			_, err = c.CreateVirtualService(ctx, &appmesh.CreateVirtualServiceInput{
				MeshName: &mesh, VirtualServiceName: aws.String("db.test"), Spec: &types.VirtualServiceSpec{
					Provider: &types.VirtualServiceProviderMemberVirtualRouter{Value: types.VirtualRouterServiceProvider{VirtualRouterName: aws.String("db")}},
				},
			})
		},
		func() {
			_, err = c.UpdateVirtualNode(ctx, &appmesh.UpdateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: aws.String("client"), Spec: client})
		},
		func() {
			_, err = c.CreateVirtualGateway(ctx, &appmesh.CreateVirtualGatewayInput{
				MeshName: &mesh, VirtualGatewayName: gateway, Spec: &types.VirtualGatewaySpec{Listeners: []types.VirtualGatewayListener{
					{PortMapping: &types.VirtualGatewayPortMapping{Port: aws.Int32(9080), Protocol: types.VirtualGatewayPortProtocolHttp}},
				}},
			})
		},
		func() {
			_, err = c.CreateGatewayRoute(ctx, &appmesh.CreateGatewayRouteInput{
				MeshName: &mesh, VirtualGatewayName: gateway, GatewayRouteName: aws.String("in"), Spec: &types.GatewayRouteSpec{HttpRoute: &types.HttpGatewayRoute{
					Match: &types.HttpGatewayRouteMatch{Prefix: aws.String("/")},
					Action: &types.HttpGatewayRouteAction{Target: &types.GatewayRouteTarget{
						VirtualService: &types.GatewayRouteVirtualService{VirtualServiceName: aws.String("shop.test")},
					}},
				}},
			})
		},
	} {
		if do(); err != nil {
			return err
		}
	}
	return nil
}

func weighted(blue, green int64) *types.RouteSpec {
	return &types.RouteSpec{HttpRoute: &types.HttpRoute{
		Match: &types.HttpRouteMatch{Prefix: aws.String("/")},
		Action: &types.HttpRouteAction{WeightedTargets: []types.WeightedTarget{
			{VirtualNode: aws.String("blue"), Weight: int32(blue)}, {VirtualNode: aws.String("green"), Weight: int32(green)},
		}},
	}}
}

func shift(ctx context.Context, c *appmesh.Client, mesh string, blue, green int64) error {
	_, err := c.UpdateRoute(ctx, &appmesh.UpdateRouteInput{
		MeshName: &mesh, VirtualRouterName: aws.String("shop"), RouteName: aws.String("main"), Spec: weighted(blue, green),
	})
	return err
}

// proxy is a stream that behaves as Envoy with its agent: it signs, acknowledges, and when its stream ends goes to the
// next replica that answers, with what it has.
type proxy struct{ *adstest.Proxy }

// connect starts a proxy of a mesh's node client. addresses are tried in turn.
func connect(t testing.TB, key aws.Credentials, mesh, instance string, delta bool, addresses ...string) *proxy {
	t.Helper()
	return connectAs(t, key, "mesh/"+mesh+"/virtualNode/client", instance, delta, addresses...)
}

// connectAs starts a proxy of any node or gateway.
func connectAs(t testing.TB, key aws.Credentials, node, instance string, delta bool, addresses ...string) *proxy {
	t.Helper()
	r := manual.NewBuilderWithScheme("replicas")
	var all []resolver.Address
	for _, a := range addresses {
		all = append(all, resolver.Address{Addr: a})
	}
	r.InitialState(resolver.State{Addresses: all})
	conn, err := grpc.NewClient(r.Scheme()+":///evermesh", grpc.WithResolvers(r), grpc.WithAuthority("evermesh"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(adstest.Signing{Key: key}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: time.Second,
		}))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &proxy{adstest.Connect(t, conn, adstest.Options{Node: node, Instance: instance, Delta: delta})}
}

// weights are those of the proxy's route to shop.test, as "blue green"; "" while it has none.
func (p *proxy) weights(t testing.TB) string {
	t.Helper()
	blue, green := uint32(0), uint32(0)
	for _, rc := range p.Routes(t) {
		for _, host := range rc.GetVirtualHosts() {
			for _, route := range host.GetRoutes() {
				for _, c := range route.GetRoute().GetWeightedClusters().GetClusters() {
					switch {
					case strings.Contains(c.GetName(), "blue"):
						blue = c.GetWeight().GetValue()
					case strings.Contains(c.GetName(), "green"):
						green = c.GetWeight().GetValue()
					}
				}
			}
		}
	}
	if blue+green == 0 {
		return ""
	}
	return fmt.Sprintf("%d %d", blue, green)
}

// has waits until the proxy's weights are these.
func (p *proxy) has(t testing.TB, blue, green int) {
	t.Helper()
	want := fmt.Sprintf("%d %d", blue, green)
	until(t, fmt.Sprintf("a proxy has the weights %s; it has %q", want, p.weights(t)), func() bool { return p.weights(t) == want })
}
