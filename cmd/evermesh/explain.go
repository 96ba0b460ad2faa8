package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/mesh"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain ARN",
		Short: "Tell what became of a resource: conditions, problems, the proxies it reached",
		Long: `Tell what became of a resource. ARN may be in its short form, such as
mesh/shop/virtualRouter/orders/route/main.

Its conditions are

  Accepted      the control plane stored it; since the write of this version
  ResolvedRefs  all that it refers to exists; since when is not kept
  Programmed    every connected proxy that it concerns accepted what is wanted of
                it; since the last of them did, or this version was written
                (refused: since the first refusal that stands)

Then come its problems, which leave a part of it without effect, remarks on what
acts but may not be meant, what is advised
otherwise, the nodes and gateways that lead to it, and the
connected proxies of these, with Envoy's own words where one refused. At most
200 of each are named; all are counted.

Exit codes: 0 told, whatever the conditions are; 1 there is no such resource, or
the control plane does not answer; 2 wrong usage.`,
		Example: `  evermesh explain mesh/shop/virtualRouter/orders/route/main
  evermesh explain mesh/shop/virtualNode/web -o json
  evermesh explain mesh/shop/virtualNode/web --watch`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes one ARN, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE:              explain,
		ValidArgsFunction: completePath,
	}
	outputFlag(c)
	dataDirFlag(c)
	c.Flags().Bool("watch", false, "go on, and tell again at every change, until interrupted or the resource is gone (-o json: a line each)")
	return c
}

func explain(c *cobra.Command, args []string) error {
	of, err := parseTarget(args[0])
	if err != nil {
		return err
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	arn, err := of.resolve(c.Context(), caller)
	if err != nil {
		return err
	}
	if watch, _ := c.Flags().GetBool("watch"); watch {
		return watchExplain(c, caller, arn)
	}
	var out api.ExplainOutput
	if err := caller.Call(c.Context(), "Explain", map[string]any{"resourceArn": arn}, &out); err != nil {
		return explained(caller, err)
	}
	if wantsJSON(c) {
		return printJSON(c.OutOrStdout(), out.Explanation)
	}
	return printExplanation(c.OutOrStdout(), out.Explanation)
}

// watchExplain tells again whenever the explanation differs. A replica that goes
// away is asked again, or another behind the same address; the resource's end is
// the end.
func watchExplain(c *cobra.Command, caller *client.Client, arn string) error {
	ctx := c.Context()
	var last string
	for {
		err := caller.Stream(ctx, "Explain", map[string]any{"resourceArn": arn, "watch": true}, func(line json.RawMessage) error {
			if string(line) == last {
				return nil
			}
			again := last != ""
			last = string(line)
			if wantsJSON(c) {
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", line)
				return err
			}
			var now api.Explanation
			if err := json.Unmarshal(line, &now); err != nil {
				return fmt.Errorf("read explanation: %w", err)
			}
			if again {
				if _, err := fmt.Fprintln(c.OutOrStdout()); err != nil {
					return err
				}
			}
			return printExplanation(c.OutOrStdout(), now)
		})
		refusal, refused := errors.AsType[*api.Error](err)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted, as it is meant to end
		case refused && refusal.Code == api.CodeNotFound && last != "":
			return &exitError{exitFailure, fmt.Sprintf("%s is gone: it was deleted while it was watched", shortForm(arn))}
		case refused && refusal.Status() < 500 && refusal.Code != api.CodeTooManyRequests, err != nil && last == "":
			return explained(caller, err)
		}
		if pause(ctx, askEvery) != nil {
			return nil
		}
	}
}

func printExplanation(w io.Writer, e api.Explanation) error {
	if _, err := fmt.Fprintf(w, "%s version %d, written %s\n\n", shortForm(e.ResourceARN), e.ResourceVersion, e.LastUpdatedAt.UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	var rows [][]string
	for _, x := range e.Conditions {
		since := "-"
		if x.Since != nil {
			since = x.Since.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{string(x.Type), string(x.Status), since, x.Reason, oneLine(x.Message)})
	}
	if err := printTable(w, []string{"CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE"}, rows); err != nil {
		return err
	}
	var lines []string
	for _, p := range e.Problems {
		word := "problem"
		if (mesh.Problem{Reason: p.Reason}).Remark() {
			word = "remark"
		}
		lines = append(lines, fmt.Sprintf("%s: %s: %s", word, p.Reason, oneLine(p.Message)))
	}
	for _, a := range e.Advice {
		lines = append(lines, "advice: "+oneLine(a))
	}
	lines = append(lines, usersLine(e))
	for _, u := range e.Unknown {
		lines = append(lines, "unknown: "+oneLine(u))
	}
	if _, err := fmt.Fprintf(w, "\n%s\n", strings.Join(lines, "\n")); err != nil {
		return err
	}
	return printReached(w, e)
}

// mostUsers is how many users the line names.
const mostUsers = 10

func usersLine(e api.Explanation) string {
	if e.UsersTotal == 0 {
		return "used by no virtual node and no virtual gateway"
	}
	var names []string
	for _, u := range e.Users[:min(len(e.Users), mostUsers)] {
		names = append(names, shortForm(u))
	}
	line := fmt.Sprintf("used by %s: %s", count(e.UsersTotal, "virtual node or gateway", "virtual nodes and gateways"), strings.Join(names, ", "))
	if more := e.UsersTotal - int64(len(names)); more > 0 {
		line += fmt.Sprintf(", and %d more", more)
	}
	return line
}

func printReached(w io.Writer, e api.Explanation) error {
	if len(e.Proxies) == 0 {
		_, err := fmt.Fprintln(w, "no connected proxy has it")
		return err
	}
	var rows [][]string
	for _, p := range e.Proxies {
		rows = append(rows, []string{shortForm(p.ResourceARN), shortInstance(p.Instance), stateOf(p), p.Replica})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := printTable(w, []string{"PROXY", "INSTANCE", "STATE", "REPLICA"}, rows); err != nil {
		return err
	}
	var lines []string
	for _, p := range e.Proxies {
		lines = append(lines, append(refusals(p), notes(p)...)...)
	}
	if more := e.ProxiesAffected - int64(len(e.Proxies)); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more: see evermesh proxies", more))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
