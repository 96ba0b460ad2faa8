//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/stage"
)

// gatewayStory is the same shifts on a machine without namespaces and redirection: one Envoy, as a virtual gateway,
// before two plain processes of service B, all on loopback.
func gatewayStory(ctx context.Context, s *stage.Stage, tell *teller, requests int) ([]observation, error) {
	ports, release, err := testenv.ReservePorts(8)
	if err != nil {
		return nil, err
	}
	defer release()
	control, err := s.Control(ctx, stage.ControlOptions{Ports: ports[0:3]})
	if err != nil {
		return nil, err
	}
	tell.step("evermeshd is ready: API for signed requests, management service on %s", control.XDS)

	u := &user{Client: control.AppMesh, control: control}
	if err := u.makeMesh(ctx); err != nil {
		return nil, err
	}
	for i, node := range []string{nodeB1, nodeB2} {
		if err := u.makeNode(ctx, node, "localhost", ports[4+i]); err != nil {
			return nil, err
		}
		if _, err := s.App(s.Home(), stage.App{Name: node, Listen: []string{fmt.Sprintf(":%d", ports[4+i])}}); err != nil {
			return nil, err
		}
	}
	if err := u.makeService(ctx); err != nil {
		return nil, err
	}
	if err := u.makeGateway(ctx, ports[3]); err != nil {
		return nil, err
	}
	arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s/virtualGateway/%s", control.Region, control.Account, meshName, gatewayName)
	if _, err := s.Sidecar(ctx, s.Home(), stage.SidecarOptions{
		Resource: arn, Alone: true, XDS: []*stage.Control{control}, AdminPort: ports[6],
		Env: []string{fmt.Sprintf("APPNET_AGENT_HTTP_PORT=%d", ports[7])},
	}); err != nil {
		return nil, err
	}
	tell.step("mesh %s is made with the AWS SDK; a virtual gateway sends everything to %s", meshName, serviceName)

	url := fmt.Sprintf("http://127.0.0.1:%d/", ports[3])
	tour := &tour{user: u, tell: tell, requests: requests, proxyARN: arn}
	if err := tour.firstAnswer(ctx, s.Home(), url); err != nil {
		return nil, err
	}
	steady := stage.NewSteady(s.Home(), url, visitors, pause)
	defer steady.Stop()
	tour.steady, tour.from = steady, time.Now()
	tell.step("a visitor calls %s, and goes on until the end", url)
	err = tour.all(ctx, control, 1)
	return tour.seen, err
}
