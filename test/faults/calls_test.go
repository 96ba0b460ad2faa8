//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// verb is what a call does.
type verb string

const (
	create   verb = "create"
	update   verb = "update"
	remove   verb = "delete"
	describe verb = "describe"
)

// state is what a call tells of a resource. Its text is the part of the spec that the tests write: another one with
// every write, so that it names the write.
type state struct {
	Exists  bool
	UID     string
	Version int32
	Text    string
}

// outcome is what the caller of a call knows afterwards.
type outcome string

const (
	done    outcome = "done"
	refused outcome = "refused" // by a rule: nothing was written
	unknown outcome = "unknown" // it may have happened, or yet happen
	unsent  outcome = "unsent"  // nobody listened
)

// outcomeOf tells the outcomes apart; code is the refusal's, or what went wrong.
func outcomeOf(err error) (o outcome, status int, code string) {
	if err == nil {
		return done, http.StatusOK, ""
	}
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = answer.HTTPStatusCode()
	}
	if known, ok := errors.AsType[smithy.APIError](err); ok {
		code = known.ErrorCode()
	}
	if status >= 400 && status < 500 {
		return refused, status, code
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return unsent, 0, "connection refused"
	case status == 0 && errors.Is(err, context.DeadlineExceeded):
		code = "no answer"
	case status == 0:
		code = "connection lost"
	}
	return unknown, status, code
}

// hostnameOf makes a text part of a spec, and textOf finds it there.
func hostnameOf(text string) string { return text + ".test" }

func specOf(text string) *types.VirtualNodeSpec {
	return &types.VirtualNodeSpec{
		Listeners:        []types.Listener{{PortMapping: &types.PortMapping{Port: aws.Int32(8080), Protocol: types.PortProtocolHttp}}},
		ServiceDiscovery: &types.ServiceDiscoveryMemberDns{Value: types.DnsServiceDiscovery{Hostname: aws.String(hostnameOf(text))}},
	}
}

func stateOf(d *types.VirtualNodeData) state {
	s := state{Exists: d.Status.Status != types.VirtualNodeStatusCodeDeleted, UID: *d.Metadata.Uid, Version: int32(*d.Metadata.Version)}
	if dns, ok := d.Spec.ServiceDiscovery.(*types.ServiceDiscoveryMemberDns); ok {
		s.Text = strings.TrimSuffix(*dns.Value.Hostname, ".test")
	}
	return s
}

// onNode runs a verb on a virtual node. What a client token answers a repeat with is the first answer.
func onNode(ctx context.Context, c *appmesh.Client, v verb, mesh, name, text, token string) (state, error) {
	switch v {
	case create:
		out, err := c.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: &name, Spec: specOf(text), ClientToken: &token})
		if err != nil {
			return state{}, err
		}
		return stateOf(out.VirtualNode), nil
	case update:
		out, err := c.UpdateVirtualNode(ctx, &appmesh.UpdateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: &name, Spec: specOf(text), ClientToken: &token})
		if err != nil {
			return state{}, err
		}
		return stateOf(out.VirtualNode), nil
	case remove:
		out, err := c.DeleteVirtualNode(ctx, &appmesh.DeleteVirtualNodeInput{MeshName: &mesh, VirtualNodeName: &name})
		if err != nil {
			return state{}, err
		}
		return stateOf(out.VirtualNode), nil
	default:
		out, err := c.DescribeVirtualNode(ctx, &appmesh.DescribeVirtualNodeInput{MeshName: &mesh, VirtualNodeName: &name})
		if _, status, _ := outcomeOf(err); status == http.StatusNotFound {
			return state{}, nil
		}
		if err != nil {
			return state{}, err
		}
		return stateOf(out.VirtualNode), nil
	}
}

// listNodes lists a mesh's virtual nodes: version by name.
func listNodes(ctx context.Context, c *appmesh.Client, mesh string) (map[string]int32, error) {
	out := map[string]int32{}
	pages := appmesh.NewListVirtualNodesPaginator(c, &appmesh.ListVirtualNodesInput{MeshName: &mesh})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, n := range page.VirtualNodes {
			if _, twice := out[*n.VirtualNodeName]; twice {
				return nil, fmt.Errorf("the list of %s names %s twice", mesh, *n.VirtualNodeName)
			}
			out[*n.VirtualNodeName] = int32(*n.Version)
		}
	}
	return out, nil
}

// listMeshes lists the meshes: version by name.
func listMeshes(ctx context.Context, c *appmesh.Client) (map[string]int32, error) {
	out := map[string]int32{}
	pages := appmesh.NewListMeshesPaginator(c, &appmesh.ListMeshesInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range page.Meshes {
			out[*m.MeshName] = int32(*m.Version)
		}
	}
	return out, nil
}

func makeMesh(ctx context.Context, c *appmesh.Client, name string) error {
	_, err := c.CreateMesh(ctx, &appmesh.CreateMeshInput{MeshName: &name, ClientToken: aws.String("token-" + name)})
	return err
}

// callLimit is longer than an evermeshd may take for an answer while its etcd does not answer, even if it is stopped
// meanwhile.
const callLimit = 20 * time.Second
