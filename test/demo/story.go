//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// The visitor: a few connections, some hundred requests a second.
const (
	visitors = 4
	pause    = 3 * time.Millisecond
)

// sidecarStory is the user guide's story, with a sidecar for each workload.
func sidecarStory(ctx context.Context, s *stage.Stage, tell *teller, requests int) ([]observation, error) {
	tell.step("ground: a bridge, a name server, a network namespace for each workload; redirection leaves out %s", owner(s.Owner()))
	control, err := s.Control(ctx, stage.ControlOptions{})
	if err != nil {
		return nil, err
	}
	tell.step("evermeshd is ready: API for signed requests, management service on %s with TLS", control.XDS)

	u := &user{Client: control.AppMesh, control: control}
	b1 := workload{node: nodeB1, port: portB}
	b2 := workload{node: nodeB2, port: portB}
	a := workload{node: nodeA, port: portA, calls: serviceName}
	if err := u.makeMesh(ctx); err != nil {
		return nil, err
	}
	if err := u.makeNode(ctx, b1.node, b1.hostname(), b1.port); err != nil {
		return nil, err
	}
	if err := u.makeService(ctx); err != nil {
		return nil, err
	}
	if err := u.makeNode(ctx, a.node, a.hostname(), a.port, serviceName); err != nil {
		return nil, err
	}
	tell.step("mesh %s is made with the AWS SDK: %s calls %s, which is %s", meshName, nodeA, serviceName, nodeB1)

	var begun errgroup.Group
	for _, w := range []*workload{&a, &b1, &b2} {
		if err := w.place(s); err != nil {
			return nil, err
		}
	}
	for _, w := range []*workload{&a, &b1} {
		begun.Go(func() error { return w.begin(ctx, s, control) })
	}
	if err := begun.Wait(); err != nil {
		return nil, err
	}
	// The name that A calls is the one that B always had; who answers is up to the mesh.
	s.DNS().Set(serviceName, b1.host.Addr())
	tell.step("%s and %s run, each with its agent and its Envoy", nodeA, nodeB1)

	visitor, err := s.Host("visitor")
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://%s:%d/", a.hostname(), a.port)
	tour := &tour{user: u, tell: tell, requests: requests, proxyARN: a.arn(control)}
	if err := tour.firstAnswer(ctx, visitor, url); err != nil {
		return nil, err
	}
	steady := stage.NewSteady(visitor, url, visitors, pause)
	defer steady.Stop()
	tour.steady, tour.from = steady, time.Now()
	tell.step("a visitor calls %s, and goes on until the end", url)

	if err := u.makeNode(ctx, b2.node, b2.hostname(), b2.port); err != nil {
		return nil, err
	}
	if err := b2.begin(ctx, s, control); err != nil {
		return nil, err
	}
	tell.step("service B has a version 2, running; nobody is sent there yet")
	if err := tour.all(ctx, control, 3); err != nil {
		return tour.seen, err
	}
	answered, err := tour.answered()
	if err != nil {
		return tour.seen, err
	}
	return tour.seen, throughEnvoys(ctx, tell, answered, a, b1, b2)
}

// throughEnvoys compares what the visitor was answered with what the Envoys counted: a request that went around one of
// them would be missing there.
func throughEnvoys(ctx context.Context, tell *teller, answered int, a, b1, b2 workload) error {
	var sent, received int
	for _, b := range []workload{b1, b2} {
		out, err := a.sidecar.Stat(ctx, fmt.Sprintf("cluster.cds_egress_%s_%s_http_%d.upstream_rq_200", meshName, b.node, portB))
		if err != nil {
			return err
		}
		in, err := b.sidecar.Stat(ctx, "http.ingress.downstream_rq_2xx")
		if err != nil {
			return err
		}
		sent, received = sent+out, received+in
	}
	tell.step("%d requests were answered; A's Envoy sent %d to B, and B's Envoys received %d", answered, sent, received)
	if sent < answered || received < answered {
		return fmt.Errorf("%d requests were answered, but Envoys counted %d sent and %d received: some went around them", answered, sent, received)
	}
	return nil
}

func owner(o ground.Owner) string {
	if o.Mark != 0 {
		return fmt.Sprintf("Envoy's mark %#x", o.Mark)
	}
	return fmt.Sprintf("Envoy's user %d", o.UID)
}

// workload is an application with its sidecar on a host of its own.
type workload struct {
	node    string // virtual node, host and application
	port    int
	calls   string // virtual service
	host    *ground.Host
	sidecar *stage.Sidecar
}

func (w *workload) hostname() string { return w.node + ".local" }

func (w *workload) arn(c *stage.Control) string {
	return fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s/virtualNode/%s", c.Region, c.Account, meshName, w.node)
}

// place gives the workload a host and a name.
func (w *workload) place(s *stage.Stage) (err error) {
	if w.host, err = s.Host(w.node); err == nil {
		s.DNS().Set(w.hostname(), w.host.Addr())
	}
	return err
}

// begin starts the application, and its agent with its Envoy.
func (w *workload) begin(ctx context.Context, s *stage.Stage, control *stage.Control) error {
	app := stage.App{Name: w.node, Listen: []string{fmt.Sprintf(":%d", w.port)}}
	if w.calls != "" {
		app.Calls = fmt.Sprintf("http://%s:%d/", w.calls, portB)
	}
	if _, err := s.App(w.host, app); err != nil {
		return err
	}
	var err error
	w.sidecar, err = s.Sidecar(ctx, w.host, stage.SidecarOptions{
		Resource: w.arn(control), AppPorts: fmt.Sprint(w.port), XDS: []*stage.Control{control},
	})
	return err
}
