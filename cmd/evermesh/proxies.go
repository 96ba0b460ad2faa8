package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

func proxiesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "proxies [ARN]",
		Short: "List the connected Envoys, what they accepted, what they refused and why",
		Long: `List the connected Envoys of all replicas of the control plane, what they
accepted, what they refused and why. ARN, or its short form such as
mesh/shop/virtualNode/web, shows those of one virtual node or gateway alone.

For each type of configuration the table shows the version that the proxy
accepted; "old > new" is one that it still has to answer for, and "old ! new"
one that it refused. DRAINING is one that clients are not sent any more, because
it is to stop (see evermesh drain). A version is a hash of the content: equal content has equal
versions on every replica.`,
		Example: `  evermesh proxies
  evermesh proxies --mesh shop
  evermesh proxies mesh/shop/virtualNode/web -o json`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one ARN at most, but got %d: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE:              proxies,
		ValidArgsFunction: completePath,
	}
	outputFlag(c)
	dataDirFlag(c)
	c.Flags().String("mesh", "", "show the proxies of one mesh, by its `name`")
	_ = c.RegisterFlagCompletionFunc("mesh", completeMesh) // fails only for a flag that does not exist
	return c
}

func proxies(c *cobra.Command, args []string) error {
	var of target
	var err error
	if len(args) == 1 {
		if of, err = parseTarget(args[0]); err != nil {
			return err
		}
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	var in api.ListProxiesInput
	in.MeshName, _ = c.Flags().GetString("mesh")
	if len(args) == 1 {
		arn, err := of.resolve(c.Context(), caller)
		if err != nil {
			return err
		}
		in.ResourceARN = &arn
	}
	all, err := listProxies(c.Context(), caller, in)
	if err != nil {
		return explained(caller, err)
	}
	if wantsJSON(c) {
		return printJSON(c.OutOrStdout(), all)
	}
	return printProxies(c.OutOrStdout(), all)
}

// listProxies reads all pages.
func listProxies(ctx context.Context, c *client.Client, in api.ListProxiesInput) (api.ListProxiesOutput, error) {
	all := api.ListProxiesOutput{Proxies: []api.Proxy{}, Replicas: []api.Replica{}}
	for {
		var page api.ListProxiesOutput
		if err := c.Call(ctx, "ListProxies", in, &page); err != nil {
			return all, err
		}
		all.Proxies = append(all.Proxies, page.Proxies...)
		if page.Replicas != nil {
			all.Replicas = page.Replicas
		}
		if page.NextToken == nil || *page.NextToken == "" {
			return all, nil
		}
		in.NextToken = page.NextToken
	}
}

// shownTypes are the columns of the table, in the order in which what is new is
// sent.
func shownTypes() []api.DiscoveryType {
	return []api.DiscoveryType{api.DiscoveryTypeCluster, api.DiscoveryTypeEndpoint, api.DiscoveryTypeListener, api.DiscoveryTypeRoute}
}

func printProxies(w io.Writer, all api.ListProxiesOutput) error {
	if len(all.Proxies) == 0 {
		_, err := fmt.Fprintf(w, "no proxy is connected (%s)\n", count(int64(len(all.Replicas)), "replica", "replicas"))
		return err
	}
	headers := []string{"RESOURCE", "INSTANCE", "STATE", "CLUSTERS", "ENDPOINTS", "LISTENERS", "ROUTES", "ENVOY", "CONNECTED", "REPLICA"}
	rows := make([][]string, 0, len(all.Proxies))
	for _, p := range all.Proxies {
		row := []string{shortForm(p.ResourceARN), shortInstance(p.Instance), stateOf(p)}
		for _, t := range shownTypes() {
			row = append(row, versionOf(p, t))
		}
		envoy := "-"
		if p.EnvoyVersion != nil && *p.EnvoyVersion != "" {
			envoy = *p.EnvoyVersion
		}
		rows = append(rows, append(row, envoy, p.ConnectedAt.UTC().Format(time.RFC3339), p.Replica))
	}
	if err := printTable(w, headers, rows); err != nil {
		return err
	}
	for _, p := range all.Proxies {
		for _, line := range append(refusals(p), notes(p)...) {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateOf is the word for how a proxy is: one that drains has what it is to have, or
// has refused it.
func stateOf(p api.Proxy) string {
	if p.DrainingSince != nil && p.State != api.ProxyStateRefused {
		return "DRAINING"
	}
	return string(p.State)
}

// versionOf is a cell of the table: what the proxy accepted of a type, and what
// it has not.
func versionOf(p api.Proxy, t api.DiscoveryType) string {
	for _, s := range p.Types {
		if s.Type != t {
			continue
		}
		accepted, wanted := short(s.Accepted), short(s.Wanted)
		switch {
		case s.Refusal != nil && s.Refusal.Version != deref(s.Accepted):
			return accepted + " ! " + short(&s.Refusal.Version)
		case s.Wanted != nil && deref(s.Wanted) != deref(s.Accepted):
			return accepted + " > " + wanted
		}
		return accepted
	}
	return "-"
}

// short is enough of a version to tell it from another.
func short(version *string) string {
	v := deref(version)
	if v == "" {
		return "-"
	}
	return v[:min(8, len(v))]
}

// shortInstance is enough of an instance to tell it from another: of the random
// id that the agent makes, the beginning.
func shortInstance(instance string) string {
	if random := strings.Trim(instance, "0123456789abcdef") == ""; random && len(instance) == 32 {
		return instance[:12]
	}
	return instance
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// refusals tells, in a line each, what a proxy refused and why.
func refusals(p api.Proxy) []string {
	var out []string
	for _, s := range p.Types {
		if s.Refusal != nil {
			out = append(out, fmt.Sprintf("%s instance %s refused its %s configuration %s at %s: %s", shortForm(p.ResourceARN), shortInstance(p.Instance),
				s.Type, short(&s.Refusal.Version), s.Refusal.At.UTC().Format(time.RFC3339), oneLine(s.Refusal.Message)))
		}
	}
	return out
}

// notes are the other things that the control plane has to say of a proxy.
func notes(p api.Proxy) []string {
	var out []string
	if p.DrainingSince != nil {
		out = append(out, fmt.Sprintf("%s instance %s has drained since %s: its clients are not sent %s", shortForm(p.ResourceARN), shortInstance(p.Instance),
			p.DrainingSince.UTC().Format(time.RFC3339), strings.Join(p.Addresses, ", ")))
	}
	for _, n := range p.Notes {
		out = append(out, fmt.Sprintf("%s instance %s: %s", shortForm(p.ResourceARN), shortInstance(p.Instance), oneLine(n)))
	}
	return out
}
