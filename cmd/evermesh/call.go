package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// dataDirFlag adds --data-dir.
func dataDirFlag(c *cobra.Command) {
	c.Flags().String("data-dir", client.DefaultDataDir(), "data `directory` of the local control plane; asked when AWS_ENDPOINT_URL is not set")
	_ = c.MarkFlagDirname("data-dir") // fails only for a flag that does not exist
}

// connect makes the client of the control plane that the environment, or else
// the data directory, names.
func connect(c *cobra.Command) (*client.Client, error) {
	dir, err := c.Flags().GetString("data-dir")
	if err != nil {
		return nil, err
	}
	cfg, err := client.Load(c.Context(), dir)
	if err != nil {
		if errors.Is(err, client.ErrNoControlPlane) {
			return nil, fmt.Errorf("%w: start one with 'evermeshd serve', name its directory with --data-dir, or set AWS_ENDPOINT_URL", err)
		}
		return nil, err
	}
	return client.New(cfg)
}

// codeTooLarge is the refusal of a body over the limit, as AWS's front ends name
// it.
const codeTooLarge = "RequestEntityTooLargeException"

// explained adds what to do to a failed call.
func explained(c *client.Client, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if unreachable, ok := errors.AsType[*client.UnreachableError](err); ok {
		return unreachable // it says all
	}
	refusal, refused := errors.AsType[*api.Error](err)
	if !refused {
		return fmt.Errorf("%s: %w", c.Endpoint, err)
	}
	switch refusal.Code {
	case api.CodeInvalidSignature, api.CodeIncompleteSignature:
		if strings.Contains(refusal.Message, "valid region") {
			return fmt.Errorf("%w (set AWS_REGION to that of the control plane: eval \"$(evermesh env)\" does)", err)
		}
		return strange(c, err)
	case api.CodeUnrecognizedClient, api.CodeExpiredToken:
		return strange(c, err)
	case codeTooLarge:
		return fmt.Errorf("%w (give fewer files at once)", err)
	case api.CodeUnknownOperation:
		return fmt.Errorf("%w (%s is an older control plane than this evermesh %s, or none)", err, c.Endpoint, version)
	case api.CodeTooManyRequests, api.CodeServiceUnavailable:
		return fmt.Errorf("%w (%s was asked several times: try again later)", err, c.Endpoint)
	}
	return err
}

// strange is the error of credentials that are not taken.
func strange(c *client.Client, err error) error {
	return fmt.Errorf("%w (%s does not take these credentials: run eval \"$(evermesh env)\")", err, c.Endpoint)
}

// target is a resource that an argument names: by its ARN, or by the short form,
// which says no account.
type target struct {
	arn  string // empty for the short form
	path api.ARN
}

func parseTarget(arg string) (target, error) {
	if a, err := api.ParseARN(arg); err == nil {
		return target{arg, a}, nil
	}
	a, err := api.ParseResourcePath(arg)
	if err != nil {
		return target{}, usagef("%q names no resource: want an ARN, or its short form such as mesh/shop/virtualNode/web or mesh/shop/virtualRouter/orders/route/main", arg)
	}
	return target{path: a}, nil
}

// resolve returns the target's ARN; for the short form the control plane is
// asked.
func (t target) resolve(ctx context.Context, c *client.Client) (string, error) {
	if t.arn != "" {
		return t.arn, nil
	}
	row, _ := t.path.Kind.Row() // a parsed path has a kind
	in := map[string]any{"meshName": t.path.Mesh, row.Name: t.path.Name}
	if row.Nested() {
		parent, _ := row.Parent.Row()
		in[parent.Name] = t.path.Parent
	}
	if t.path.MeshOwner != "" {
		in["meshOwner"] = t.path.MeshOwner
	}
	// Every describe answers the resource as its body; all have metadata.
	var out map[string]struct {
		Metadata api.ResourceMetadata `json:"metadata"`
	}
	if err := c.Call(ctx, "Describe"+row.Type, in, &out); err != nil {
		return "", explained(c, err)
	}
	return out[row.Wrapper].Metadata.ARN, nil
}

// shortForm is an ARN without what all of a control plane have in common.
func shortForm(arn string) string {
	if n, ok := api.ParseResourceName(arn); ok {
		return n.Resource
	}
	return arn
}
