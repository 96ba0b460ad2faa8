package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/apply"
)

func planCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan FILE…",
		Short: "Show what applying files would change, in resources and in each proxy's configuration",
		Long: `Show what "evermesh apply" would change with the same files: the resources that
it would create, update and (with --prune) remove, what the API would refuse of
them and by which file, and the difference in the configuration of the proxies of
every virtual node and gateway. Nothing is written.

` + aboutFiles + `

A listener that is marked "drains" loses connections: Envoy ends them, after a
time to finish. It is said which and why, and which statistics get other names.
Nodes and gateways whose configuration changes in the same way are shown once.
What is shown is what the proxies that are connected would get: where some of a
node's run without interception, or count for the metrics extension, each kind
stands for itself. A node without proxies is shown as with interception.

Exit codes: 0 told; 1 the API would refuse something, or does not answer; 2 wrong
usage, or a file that cannot be used; with --detailed-exitcode 5 when there is
something to change.`,
		Example: `  evermesh plan shop/*.json
  evermesh plan shop/*.json --prune --detailed-exitcode
  evermesh export shop | sed s/orders-v1/orders-v2/ | evermesh plan -`,
		Args:              takesFiles,
		RunE:              planFiles,
		ValidArgsFunction: completeFiles,
	}
	outputFlag(c)
	dataDirFlag(c)
	fileFlags(c)
	c.Flags().Bool("prune", false, "also remove what is in the meshes of the files and in no file")
	c.Flags().Bool("detailed-exitcode", false, "end with 5 when there is something to change")
	return c
}

// planned is what a plan comes to, in the words of the files.
type planned struct {
	Resources []plannedResource  `json:"resources"`
	Proxies   []api.PlannedProxy `json:"proxies"`
	// Complete says that every difference is written out.
	Complete bool  `json:"complete"`
	Revision int64 `json:"revision,omitempty"`
}

type plannedResource struct {
	Resource   string       `json:"resource"`
	Action     apply.Action `json:"action"`
	Where      string       `json:"where,omitempty"`
	Difference string       `json:"difference,omitempty"`
	TagsSet    []api.TagRef `json:"tagsSet,omitempty"`
	TagsGone   []string     `json:"tagsRemoved,omitempty"`
	Code       string       `json:"code,omitempty"`
	Message    string       `json:"message,omitempty"`
}

// refuse is the action of what the API would refuse.
const refuse apply.Action = "refused"

func planFiles(c *cobra.Command, args []string) error {
	w, err := prepared(c, args)
	if err != nil {
		return err
	}
	out, err := planOf(c.Context(), w.Applier, w.all())
	if err != nil {
		return explained(w.Client, err)
	}
	if wantsJSON(c) {
		err = printJSON(c.OutOrStdout(), out)
	} else {
		err = printPlan(c.OutOrStdout(), out)
	}
	if err != nil {
		return err
	}
	var refused []string
	changes, unnamed := false, false // one that is to go is in no file
	for _, r := range out.Resources {
		changes = changes || r.Action != apply.Unchanged && r.Action != apply.Gone
		if r.Action == refuse {
			place := r.Resource
			if r.Where != "" {
				place = r.Where + ": " + place
			}
			unnamed = unnamed || r.Where == ""
			refused = append(refused, fmt.Sprintf("%s: %s: %s", place, r.Code, oneLine(r.Message)))
		}
	}
	if err := complain(c.ErrOrStderr(), refused); err != nil {
		return err
	}
	if n := int64(len(refused)); n > 0 {
		if unnamed {
			return &exitError{exitFailure, fmt.Sprintf("%s would be refused: see above why, and correct the files", count(n, "resource", "resources"))}
		}
		return &exitError{exitFailure, fmt.Sprintf("%s would be refused: correct the files named above", count(n, "resource", "resources"))}
	}
	if detailed, _ := c.Flags().GetBool("detailed-exitcode"); detailed && changes {
		return &exitError{code: exitChanges}
	}
	return nil
}

// planOf looks at each item, and asks the control plane what the ones that differ
// would do.
func planOf(ctx context.Context, a *apply.Applier, items []apply.Item) (planned, error) {
	out := planned{Resources: make([]plannedResource, len(items)), Proxies: []api.PlannedProxy{}, Complete: true}
	var in api.PlanInput
	var sent []int // the items of in.Changes
	for n, i := range items {
		state, err := a.Look(ctx, i)
		if err != nil {
			return planned{}, fmt.Errorf("%s: %w", i.Path(), err)
		}
		out.Resources[n] = plannedResource{Resource: i.Path(), Action: state.Action, Where: i.Where, TagsSet: state.Set, TagsGone: state.Drop}
		if state.Action == apply.Unchanged || state.Action == apply.Gone || state.Action == apply.Tag {
			continue
		}
		input, err := json.Marshal(i.Input())
		if err != nil {
			return planned{}, fmt.Errorf("%s: %w", i.Path(), err)
		}
		change := api.PlanChange{Kind: api.ResourceKind(i.Key.Kind), Input: string(input)}
		if i.Doc == nil {
			goes := true
			change.Delete = &goes
		}
		in.Changes, sent = append(in.Changes, change), append(sent, n)
	}
	if len(sent) == 0 {
		return out, nil
	}
	var answer api.PlanOutput
	if err := a.Client.Call(ctx, "Plan", in, &answer); err != nil {
		return planned{}, err
	}
	out.Proxies, out.Complete, out.Revision = answer.Plan.Proxies, answer.Plan.Complete, answer.Plan.Revision
	for _, r := range answer.Plan.Resources {
		if r.Change < 0 || r.Change >= int64(len(sent)) {
			return planned{}, fmt.Errorf("the answer speaks of change %d of %d: check the endpoint", r.Change, len(sent))
		}
		mine := &out.Resources[sent[r.Change]]
		mine.Difference, mine.Code, mine.Message = deref(r.Difference), deref(r.Code), deref(r.Message)
		switch {
		case r.Action == api.PlanActionRefused:
			mine.Action = refuse
		case r.Action == api.PlanActionNone:
			mine.Action = apply.Unchanged // somebody else was quicker, or it would be left alone
		}
	}
	return out, nil
}

func printPlan(w io.Writer, p planned) error {
	var text strings.Builder
	done := map[apply.Action]int64{}
	for _, r := range p.Resources {
		done[r.Action]++
		if r.Action == apply.Unchanged && r.Message == "" {
			continue
		}
		where := ""
		if r.Where != "" {
			where = "  (" + r.Where + ")"
		}
		fmt.Fprintf(&text, "%-9s  %s%s\n", r.Action, r.Resource, where)
		if r.Message != "" {
			fmt.Fprintf(&text, "    %s\n", oneLine(r.Message))
		}
		text.WriteString(indented(r.Difference))
		for _, t := range r.TagsSet {
			fmt.Fprintf(&text, "    + tag %s = %s\n", t.Key, t.Value)
		}
		for _, t := range r.TagsGone {
			fmt.Fprintf(&text, "    - tag %s\n", t)
		}
	}
	changed, drains := printPlannedProxies(&text, p.Proxies)
	if !p.Complete {
		text.WriteString("\nsome differences are left out, because there are too many\n")
	}
	if text.Len() > 0 {
		text.WriteByte('\n')
	}
	text.WriteString(planSummary(done, changed, drains) + "\n")
	_, err := io.WriteString(w, text.String())
	return err
}

func indented(difference string) string {
	if difference == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(strings.TrimSuffix(difference, "\n"), "\n", "\n    ") + "\n"
}

func planSummary(done map[apply.Action]int64, proxies, drains int64) string {
	var parts []string
	for _, x := range []struct {
		action apply.Action
		words  string
	}{
		{apply.Create, "to create"}, {apply.Update, "to update"}, {apply.Tag, "to tag"}, {apply.Delete, "to remove"}, {refuse, "refused"},
	} {
		if n := done[x.action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, x.words))
		}
	}
	if parts == nil {
		return "nothing to change"
	}
	text := strings.Join(parts, ", ") + "; "
	if proxies == 0 {
		return text + "no proxy's configuration changes"
	}
	text += "another configuration for " + count(proxies, "node or gateway", "nodes and gateways")
	if drains > 0 {
		text += fmt.Sprintf(", %d of which drain connections", drains)
	}
	return text
}
