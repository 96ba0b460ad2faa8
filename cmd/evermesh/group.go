package main

import "github.com/spf13/cobra"

// completionCommand is cobra's command completion, which by itself takes any
// word for a shell and ends with 0.
func completionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
		}
	}
}

// group is a command that only has others, without one of them: wrong usage.
func group(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is not a command: see %s --help", args[0], c.CommandPath())
	}
	c.SetOut(c.ErrOrStderr())
	if err := c.Help(); err != nil {
		return err
	}
	return usagef("%s takes one of the commands above", c.CommandPath())
}
