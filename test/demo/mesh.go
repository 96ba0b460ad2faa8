//go:build linux

package main

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// The names of the user guide's story.
const (
	meshName    = "apps"
	serviceName = "serviceb.local"
	routerName  = "serviceb"
	routeName   = "serviceb"
	nodeA       = "servicea"
	nodeB1      = "serviceb-v1"
	nodeB2      = "serviceb-v2"
	gatewayName = "entrance"
	portA       = 8080
	portB       = 9080
)

// user makes the mesh, as anyone would with the AWS SDK.
type user struct {
	*appmesh.Client
	control  *stage.Control
	routeARN string
}

func port(n int) *types.PortMapping {
	return &types.PortMapping{Port: aws.Int32(int32(n)), Protocol: types.PortProtocolHttp}
}

func (u *user) makeMesh(ctx context.Context) error {
	_, err := u.CreateMesh(ctx, &appmesh.CreateMeshInput{MeshName: aws.String(meshName)})
	return err
}

// makeNode makes a virtual node that listens and is found by a DNS name. It calls the virtual services named.
func (u *user) makeNode(ctx context.Context, name, hostname string, listens int, calls ...string) error {
	spec := &types.VirtualNodeSpec{
		Listeners:        []types.Listener{{PortMapping: port(listens)}},
		ServiceDiscovery: &types.ServiceDiscoveryMemberDns{Value: types.DnsServiceDiscovery{Hostname: aws.String(hostname)}},
	}
	for _, service := range calls {
		spec.Backends = append(spec.Backends, &types.BackendMemberVirtualService{
			Value: types.VirtualServiceBackend{VirtualServiceName: aws.String(service)},
		})
	}
	_, err := u.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{
		MeshName: aws.String(meshName), VirtualNodeName: aws.String(name), Spec: spec,
	})
	return err
}

// makeService makes serviceb.local: a virtual service whose router sends everything to version 1.
func (u *user) makeService(ctx context.Context) error {
	if _, err := u.CreateVirtualRouter(ctx, &appmesh.CreateVirtualRouterInput{
		MeshName: aws.String(meshName), VirtualRouterName: aws.String(routerName),
		Spec: &types.VirtualRouterSpec{Listeners: []types.VirtualRouterListener{{PortMapping: port(portB)}}},
	}); err != nil {
		return err
	}
	made, err := u.CreateRoute(ctx, &appmesh.CreateRouteInput{
		MeshName: aws.String(meshName), VirtualRouterName: aws.String(routerName), RouteName: aws.String(routeName),
		Spec: weights(weight{nodeB1, 100}),
	})
	if err != nil {
		return err
	}
	u.routeARN = *made.Route.Metadata.Arn
	_, err = u.CreateVirtualService(ctx, &appmesh.CreateVirtualServiceInput{
		MeshName: aws.String(meshName), VirtualServiceName: aws.String(serviceName),
		Spec: &types.VirtualServiceSpec{Provider: &types.VirtualServiceProviderMemberVirtualRouter{
			Value: types.VirtualRouterServiceProvider{VirtualRouterName: aws.String(routerName)},
		}},
	})
	return err
}

// makeGateway makes a virtual gateway that sends everything to serviceb.local.
func (u *user) makeGateway(ctx context.Context, listens int) error {
	if _, err := u.CreateVirtualGateway(ctx, &appmesh.CreateVirtualGatewayInput{
		MeshName: aws.String(meshName), VirtualGatewayName: aws.String(gatewayName),
		Spec: &types.VirtualGatewaySpec{Listeners: []types.VirtualGatewayListener{{
			PortMapping: &types.VirtualGatewayPortMapping{Port: aws.Int32(int32(listens)), Protocol: types.VirtualGatewayPortProtocolHttp},
		}}},
	}); err != nil {
		return err
	}
	_, err := u.CreateGatewayRoute(ctx, &appmesh.CreateGatewayRouteInput{
		MeshName: aws.String(meshName), VirtualGatewayName: aws.String(gatewayName), GatewayRouteName: aws.String("all"),
		Spec: &types.GatewayRouteSpec{HttpRoute: &types.HttpGatewayRoute{
			Match: &types.HttpGatewayRouteMatch{Prefix: aws.String("/")},
			Action: &types.HttpGatewayRouteAction{Target: &types.GatewayRouteTarget{
				VirtualService: &types.GatewayRouteVirtualService{VirtualServiceName: aws.String(serviceName)},
			}},
		}},
	})
	return err
}

type weight struct {
	node   string
	weight int
}

func weights(targets ...weight) *types.RouteSpec {
	action := &types.HttpRouteAction{}
	for _, t := range targets {
		action.WeightedTargets = append(action.WeightedTargets, types.WeightedTarget{VirtualNode: aws.String(t.node), Weight: int32(t.weight)})
	}
	return &types.RouteSpec{HttpRoute: &types.HttpRoute{Match: &types.HttpRouteMatch{Prefix: aws.String("/")}, Action: action}}
}

// shift changes the weights and waits until the last proxy that they concern accepted them. It returns when the
// request was sent and when that was, by the clock of this machine.
func (u *user) shift(ctx context.Context, proxyARN string, v1, v2 int) (sent, accepted time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sent = time.Now()
	if _, err := u.UpdateRoute(ctx, &appmesh.UpdateRouteInput{
		MeshName: aws.String(meshName), VirtualRouterName: aws.String(routerName), RouteName: aws.String(routeName),
		Spec: weights(weight{nodeB1, v1}, weight{nodeB2, v2}),
	}); err != nil {
		return sent, accepted, err
	}
	if _, err := u.control.Rollout(ctx, u.routeARN); err != nil {
		return sent, accepted, err
	}
	accepted, err = u.control.Accepted(ctx, meshName, proxyARN, api.DiscoveryTypeRoute)
	return sent, accepted, err
}
