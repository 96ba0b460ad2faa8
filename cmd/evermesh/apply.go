package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/apply"
)

func applyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "apply FILE…",
		Short: "Create or update the resources of files, in the order in which they depend on each other",
		Long: `Create or update the resources of files, in the order in which they depend on
each other. Only what differs is written, so it is safe to run again, also after
it failed half way. "evermesh plan" shows beforehand what it would do.

` + aboutFiles + `

Tags are set as the input says; where it says none at all, they are left as they
are. Client tokens in files are ignored.

With --prune, what is in the meshes that the files name, and in no file, is
removed afterwards: it is listed first, and asked for unless --yes. Meshes that
no file names, meshes themselves, and resources of other accounts are never
removed. When something could not be written, nothing is removed.

Exit codes: 0 all is as the files say; 1 something was not done, and what was is
listed; 2 wrong usage, or a file that cannot be used: nothing was written.`,
		Example: `  evermesh apply mesh.json nodes.json routes.jsonl
  evermesh apply template.yaml --stack-name shop --parameter Domain=shop.local
  kubectl kustomize overlays/prod | evermesh apply -
  evermesh export shop | ssh other evermesh apply -
  evermesh apply shop/*.json --prune --yes`,
		Args:              takesFiles,
		RunE:              applyFiles,
		ValidArgsFunction: completeFiles,
	}
	outputFlag(c)
	dataDirFlag(c)
	fileFlags(c)
	c.Flags().Bool("prune", false, "remove what is in the meshes of the files and in no file")
	c.Flags().Bool("yes", false, "with --prune: do not ask")
	return c
}

func takesFiles(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s takes files, but got none: see %s --help", c.CommandPath(), c.CommandPath())
	}
	return nil
}

// work is what apply and plan begin with.
type work struct {
	*apply.Applier
	items     []apply.Item // to be written
	others    []apply.Item // to go, with --prune
	templates templates    // among the files
}

// all are the items, and then those that are to go.
func (w *work) all() []apply.Item { return slices.Concat(w.items, w.others) }

// read reads files as what is to be applied. Faults are told, a line each.
func (w *work) read(c *cobra.Command, names []string) error {
	options, err := fileOptionsOf(c)
	if err != nil {
		return err
	}
	options.liveRealm(c)
	read, err := readFiles(names, c.InOrStdin(), options)
	if err != nil {
		return err
	}
	told := reading{notes: slices.Concat(read.skipped, read.notes), faults: read.faults}
	found, err := told.check(read.inputs, "")
	if err != nil {
		return err
	}
	if err := complain(c.ErrOrStderr(), append(told.notes, told.faults...)); err != nil {
		return err
	}
	if n := int64(len(told.faults)); n > 0 {
		return usagef("%s above: correct the files; nothing was written", count(n, "fault", "faults"))
	}
	if len(found) == 0 {
		return usagef("the files hold no App Mesh resource: nothing was written")
	}
	items := make([]apply.Item, len(found))
	for i, x := range found {
		items[i] = apply.Item{Where: x.where, Key: x.resource.Key, Doc: x.doc}
	}
	w.items, w.templates = apply.InOrder(items), read.templates
	return nil
}

// othersOf is what --prune would remove; it tells what is left alone.
func othersOf(c *cobra.Command, a *apply.Applier, items []apply.Item) ([]apply.Item, error) {
	for _, i := range items {
		if i.Key.Owner != "" {
			return nil, usagef("%s: %s names the mesh's owner, and --prune removes from meshes of one's own only: leave out meshOwner, or --prune", i.Where, i.Path())
		}
	}
	others, left, err := a.Others(c.Context(), items)
	if err != nil {
		return nil, explained(a.Client, err)
	}
	var lines []string
	for _, l := range left {
		lines = append(lines, fmt.Sprintf("%s is of account %s, and left alone", l.Path(), l.ResourceOwner))
	}
	return others, complain(c.ErrOrStderr(), lines)
}

// prepared reads files and finds the control plane.
func prepared(c *cobra.Command, names []string) (*work, error) {
	w := &work{}
	if err := w.read(c, names); err != nil {
		return nil, err
	}
	caller, err := connect(c)
	if err != nil {
		return nil, err
	}
	w.Applier = &apply.Applier{Client: caller}
	if prune, _ := c.Flags().GetBool("prune"); prune {
		if w.others, err = othersOf(c, w.Applier, w.items); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func applyFiles(c *cobra.Command, args []string) error {
	w, err := prepared(c, args)
	if err != nil {
		return err
	}
	if err := confirm(c, w.others); err != nil {
		return err
	}
	var failed error
	w.Done = func(r apply.Result) {
		if !wantsJSON(c) && r.Err == nil {
			if _, err := fmt.Fprintf(c.OutOrStdout(), "%-9s  %s\n", did(r.Action), r.Path()); err != nil && failed == nil {
				failed = err
			}
		}
	}
	results, err := w.Run(c.Context(), w.all())
	return errors.Join(failed, w.report(c, results, err))
}

// confirm lists what is to go and has a person say yes.
func confirm(c *cobra.Command, others []apply.Item) error {
	if len(others) == 0 {
		return nil
	}
	lines := make([]string, len(others))
	for i, o := range others {
		lines[i] = "to be removed, as no file has it: " + o.Path()
	}
	if err := complain(c.ErrOrStderr(), lines); err != nil {
		return err
	}
	if yes, _ := c.Flags().GetBool("yes"); yes {
		return nil
	}
	resources := count(int64(len(others)), "resource", "resources")
	in, person := c.InOrStdin().(*os.File)
	if !person || !term.IsTerminal(in.Fd()) {
		return usagef("--prune would remove %s, and nobody is here to be asked: look at the list above and add --yes; nothing was written", resources)
	}
	if _, err := fmt.Fprintf(c.ErrOrStderr(), "Remove %s? Only yes is taken for an answer: ", resources); err != nil {
		return err
	}
	answer, err := readLine(c.Context(), in)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return &exitError{exitFailure, "the answer was not yes: nothing was written"}
	}
	return nil
}

// readLine reads a line, or gives up when ctx ends: the goroutine that then is
// left ends with the program.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(r).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- read{line, err}
	}()
	select {
	case x := <-got:
		return x.line, x.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
