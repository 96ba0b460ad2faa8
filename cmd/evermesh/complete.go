package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// completeWithin bounds how long a press of the tab key may take.
const completeWithin = 2 * time.Second

// plainFlags takes the marks from the flags' texts that help needs, to know the
// name of a value, and shells would show.
func plainFlags(c *cobra.Command) {
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") })
	for _, below := range c.Commands() {
		plainFlags(below)
	}
}

// completeMesh completes the name of a mesh. A control plane that cannot be
// asked completes nothing.
func completeMesh(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return names(c, api.KindMesh, api.ARN{}), cobra.ShellCompDirectiveNoFileComp
}

// completeFiles completes names of files.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"json", "jsonl", "yaml", "yml", "template"}, cobra.ShellCompDirectiveFilterFileExt
}

// completePath completes the short form of an ARN part by part: meshes, kinds,
// names, and what lives under routers and gateways.
func completePath(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if len(args) > 0 || !strings.HasPrefix(typed, "mesh/") {
		if len(args) == 0 && strings.HasPrefix("mesh/", typed) {
			return []string{"mesh/"}, directive
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	parts := strings.Split(typed, "/")
	base := strings.Join(parts[:len(parts)-1], "/") + "/"
	at := api.ARN{Mesh: parts[1]}
	var next []string
	switch len(parts) {
	case 2:
		next = names(c, api.KindMesh, at)
	case 3:
		next = kindsUnder(api.KindMesh)
	case 4:
		next = names(c, api.Kind(parts[2]), at)
	case 5:
		next = kindsUnder(api.Kind(parts[2]))
	case 6:
		at.Parent = parts[3]
		next = names(c, api.Kind(parts[4]), at)
	}
	out := make([]string, len(next))
	for i, n := range next {
		out[i] = base + n
	}
	return out, directive
}

// completeInstance completes what a connected proxy is called.
func completeInstance(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completeWithin)
	defer cancel()
	dir, _ := c.Flags().GetString("data-dir")
	cfg, err := client.Load(ctx, dir)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	caller, err := client.New(cfg)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, _ := listProxies(ctx, caller, api.ListProxiesInput{}) // what came before a fault will do
	var out []string
	for _, p := range all.Proxies {
		if strings.HasPrefix(p.Instance, typed) {
			out = append(out, p.Instance)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// kindsUnder are the kinds whose resources live under one of the kind.
func kindsUnder(parent api.Kind) []string {
	var out []string
	for _, row := range api.Kinds() {
		if row.Parent == parent {
			out = append(out, string(row.Kind))
		}
	}
	return out
}

// names lists the names of the resources of a kind.
func names(c *cobra.Command, kind api.Kind, at api.ARN) []string {
	row, ok := kind.Row()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.Context(), completeWithin)
	defer cancel()
	dir, _ := c.Flags().GetString("data-dir")
	cfg, err := client.Load(ctx, dir)
	if err != nil {
		return nil
	}
	caller, err := client.New(cfg)
	if err != nil {
		return nil
	}
	in := map[string]any{}
	if kind != api.KindMesh {
		in["meshName"] = at.Mesh
	}
	if parent, nested := row.Parent.Row(); nested && row.Nested() {
		in[parent.Name] = at.Parent
	}
	var found []string
	for {
		var page map[string]any
		if err := caller.Call(ctx, "List"+row.Plural, in, &page); err != nil {
			return found
		}
		list, _ := page[row.List].([]any)
		for _, item := range list {
			if ref, ok := item.(map[string]any); ok {
				if name, ok := ref[row.Name].(string); ok {
					found = append(found, name)
				}
			}
		}
		next, _ := page["nextToken"].(string)
		if next == "" {
			return found
		}
		in["nextToken"] = next
	}
}
