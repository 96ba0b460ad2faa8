package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/apply"
)

// did says an action in the past.
func did(a apply.Action) string {
	switch a {
	case apply.Create:
		return "created"
	case apply.Update:
		return "updated"
	case apply.Tag:
		return "tagged"
	case apply.Delete:
		return "removed"
	}
	return string(a)
}

// appliedLine is a result as JSON.
type appliedLine struct {
	Resource string `json:"resource"`
	Result   string `json:"result"`
	Version  int64  `json:"version,omitempty"`
	Where    string `json:"where,omitempty"`
	Error    string `json:"error,omitempty"`
}

// report tells how it went: what was done on stdout, what was not on stderr, a
// line each.
func (w *work) report(c *cobra.Command, results []apply.Result, err error) error {
	done := map[string]int64{}
	var undone []string
	lines := make([]appliedLine, len(results))
	for i, r := range results {
		lines[i] = appliedLine{Resource: r.Path(), Result: did(r.Action), Version: r.Version, Where: r.Where}
		if r.Err == nil {
			done[did(r.Action)]++
			continue
		}
		lines[i].Result, lines[i].Error = "failed", oneLine(explained(w.Client, r.Err).Error())
		if errors.Is(r.Err, apply.ErrNotTried) {
			lines[i].Result, lines[i].Error = "not tried", r.Err.Error()
		}
		place := r.Path()
		if r.Where != "" {
			place = r.Where + ": " + place
		}
		undone = append(undone, place+": "+lines[i].Error)
	}
	outputs, unknown := w.outputs(results)
	if wantsJSON(c) {
		out := map[string]any{"resources": lines}
		if len(outputs) > 0 {
			out["outputs"] = outputs
		}
		if err := printJSON(c.OutOrStdout(), out); err != nil {
			return err
		}
	}
	if err := complain(c.ErrOrStderr(), undone); err != nil {
		return err
	}
	summary := summaryOf(done)
	if len(undone) > 0 {
		text := fmt.Sprintf("%s not done, %s: correct what is told above and apply again", count(int64(len(undone)), "resource was", "resources were"), summary)
		return &exitError{exitFailure, text}
	}
	if err != nil {
		return explained(w.Client, err)
	}
	if err := complain(c.ErrOrStderr(), unknown); err != nil {
		return err
	}
	if wantsJSON(c) {
		return nil
	}
	var text strings.Builder
	for _, name := range sorted(outputs) {
		fmt.Fprintf(&text, "%-9s  %s = %s\n", "output", name, outputs[name])
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), text.String()+summary)
	return err
}

// outputs are the outputs of the templates whose values are known after these
// results, and a line for each other one: they are of what the templates make
// elsewhere.
func (w *work) outputs(results []apply.Result) (known map[string]string, unknown []string) {
	known = map[string]string{}
	for _, o := range w.templates.outputs(results) {
		if o.Unknown != "" {
			unknown = append(unknown, fmt.Sprintf("%s: output %s is not known: %s", o.Position, o.Name, o.Unknown))
			continue
		}
		known[o.Name] = o.Value
	}
	return known, unknown
}

func summaryOf(done map[string]int64) string {
	var parts []string
	for _, word := range []string{"created", "updated", "tagged", "unchanged", "removed", "gone"} {
		if n := done[word]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, word))
		}
	}
	if parts == nil {
		return "nothing was done"
	}
	return strings.Join(parts, ", ")
}
