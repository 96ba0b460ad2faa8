package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// printPlannedProxies writes the proxies, those that change in the same way once,
// and counts the nodes and gateways, and those that drain connections.
func printPlannedProxies(text *strings.Builder, proxies []api.PlannedProxy) (changed, drains int64) {
	var order []string
	alike := map[string][]string{}
	arns, draining := map[string]bool{}, map[string]bool{}
	for _, x := range proxies {
		arns[x.ResourceARN] = true
		if x.Drains {
			draining[x.ResourceARN] = true
		}
		how := plannedText(x)
		if alike[how] == nil {
			order = append(order, how)
		}
		if name := shortForm(x.ResourceARN) + kindOf(x, proxies); !slices.Contains(alike[how], name) {
			alike[how] = append(alike[how], name)
		}
	}
	for _, how := range order {
		names := alike[how]
		fmt.Fprintf(text, "\nproxies of %s", strings.Join(names[:min(len(names), mostUsers)], ", "))
		if more := len(names) - mostUsers; more > 0 {
			fmt.Fprintf(text, ", and %d more alike", more)
		}
		text.WriteString(":\n" + how)
	}
	return int64(len(arns)), int64(len(draining))
}

// kindOf says which of a node's or gateway's proxies are meant, as words in brackets; empty
// for those with interception.
func kindOf(x api.PlannedProxy, all []api.PlannedProxy) string {
	t := mesh.TraitsOf(x.Traits)
	var words []string
	if t.Direct != "" {
		words = append(words, "without interception")
	}
	if at := t.Direct.Ingress(); at != "" {
		one := "at " + at
		if x.Connected != nil && *x.Connected > 1 {
			one += fmt.Sprintf(", as %d others at their addresses", *x.Connected-1)
		}
		words = append(words, one)
	}
	if ports := t.Direct.Pairs(); ports != "" {
		words = append(words, "application ports "+ports)
	}
	if t.Metrics {
		words = append(words, "with the metrics extension")
	}
	served := t
	served.NoSDS = false
	if t.NoSDS && slices.ContainsFunc(all, func(o api.PlannedProxy) bool {
		return o.ResourceARN == x.ResourceARN && mesh.TraitsOf(o.Traits) == served
	}) {
		words = append(words, "without an SDS server")
	}
	if words == nil {
		return ""
	}
	return " (" + strings.Join(words, ", ") + ")"
}

func plannedText(x api.PlannedProxy) string {
	var text strings.Builder
	switch x.Action {
	case api.PlanActionDelete:
		text.WriteString("  the resource would be gone: they keep what they have and are turned away when they connect again\n")
	case api.PlanActionCreate:
		text.WriteString("  new:\n")
	}
	for _, c := range x.Configurations {
		mark := ""
		if c.Drains {
			mark = "  drains"
		}
		fmt.Fprintf(&text, "  %-6s  %s %s%s\n", strings.ToLower(string(c.Action)), c.Type, c.Name, mark)
		for _, e := range c.Effects {
			fmt.Fprintf(&text, "    %s\n", e)
		}
		text.WriteString(indented(deref(c.Difference)))
	}
	for _, p := range x.Problems {
		fmt.Fprintf(&text, "  problem: %s: %s: %s\n", shortForm(p.ResourceARN), p.Reason, oneLine(p.Message))
	}
	return text.String()
}
