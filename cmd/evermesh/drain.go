package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

func drainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "drain INSTANCE",
		Short: "Take a proxy out of what its clients are sent, or bring it back",
		Long: `Take a connected proxy out of the endpoints that the clients of its virtual node
are sent, and wait until they have followed: nobody chooses it any more, and
requests under way end. INSTANCE is what evermesh proxies shows, its beginning
where that is an agent's. The proxy itself goes on as before. Its agent does the
same by itself when it is told to stop.

It drains until --undo, or until another process connects in its place. Where all
proxies of a node drain, the last one is still sent to clients. Clients that find
the node by DNS are not reached by this; the answer counts them.

Exit codes: 0 no client is sent it any more, or none was; 1 there is no such
proxy, or the control plane does not answer; 2 wrong usage; 4 some client had not
followed after 10 s, and the drain goes on, or it was ended meanwhile.`,
		Example: `  evermesh proxies mesh/shop/virtualNode/web
  evermesh drain 5f0c9a3be1d2
  evermesh drain 5f0c9a3be1d2 --undo`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "" {
				return usagef("the instance is empty: evermesh proxies shows those that there are")
			}
			if len(args) != 1 {
				return usagef("%s takes one instance, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE:              drainProxy,
		ValidArgsFunction: completeInstance,
	}
	outputFlag(c)
	dataDirFlag(c)
	c.Flags().Bool("undo", false, "send the proxy to its clients again")
	c.Flags().String("of", "", "the virtual node's `ARN`, or its short form, where several have a proxy of that name")
	_ = c.RegisterFlagCompletionFunc("of", func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return completePath(c, nil, typed)
	}) // fails only for a flag that does not exist
	return c
}

func drainProxy(c *cobra.Command, args []string) error {
	in := map[string]any{}
	of, _ := c.Flags().GetString("of")
	var node target
	var err error
	if of != "" {
		if node, err = parseTarget(of); err != nil {
			return err
		}
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	if of != "" {
		if in["resourceArn"], err = node.resolve(c.Context(), caller); err != nil {
			return err
		}
	}
	if in["instance"], err = wholeInstance(c.Context(), caller, args[0]); err != nil {
		return explained(caller, err)
	}
	operation := "DrainProxy"
	if undo, _ := c.Flags().GetBool("undo"); undo {
		operation = "ResumeProxy"
	}
	var out api.DrainProxyOutput // both answer the same
	if err := caller.Call(c.Context(), operation, in, &out); err != nil {
		return explained(caller, err)
	}
	if wantsJSON(c) {
		err = printJSON(c.OutOrStdout(), out.Drain)
	} else {
		err = printDrain(c.OutOrStdout(), out.Drain)
	}
	ended := operation == "DrainProxy" && out.Drain.Status == api.DrainStatusResumed // by somebody else, meanwhile
	if err == nil && (ended || out.Drain.Status == api.DrainStatusTimedOut) {
		return &exitError{code: exitTimeout}
	}
	return err
}

func printDrain(w io.Writer, d api.Drain) error {
	_, err := fmt.Fprintf(w, "%s instance %s: %s: %s\n", shortForm(d.ResourceARN), shortInstance(d.Instance), d.Status, oneLine(d.Message))
	if err == nil && d.Status == api.DrainStatusNothingToDo && d.Clients > 0 {
		_, err = fmt.Fprintf(w, "%s may choose it\n", count(d.Clients, "connected client", "connected clients"))
	}
	return err
}

// wholeInstance is the instance that a beginning of one means: those that agents make
// are random, and shown in part.
func wholeInstance(ctx context.Context, caller *client.Client, text string) (string, error) {
	if len(text) >= 32 || strings.Trim(text, "0123456789abcdef") != "" {
		return text, nil
	}
	all, err := listProxies(ctx, caller, api.ListProxiesInput{})
	if err != nil {
		if _, refused := errors.AsType[*api.Error](err); refused {
			return text, nil // who may not list may drain
		}
		return "", err
	}
	found := map[string]bool{}
	for _, p := range all.Proxies {
		if p.Instance == text {
			return text, nil
		}
		if len(p.Instance) == 32 && strings.HasPrefix(p.Instance, text) {
			found[p.Instance] = true
		}
	}
	for instance := range found {
		if len(found) == 1 {
			return instance, nil
		}
		return "", usagef("%d instances begin with %s: give more of it", len(found), text)
	}
	return text, nil
}
