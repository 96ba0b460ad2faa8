package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/store"
)

// accountGuardCommand is the operator's bound on a whole account.
func accountGuardCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "guard ID [FILE ...]",
		Short: "Bound what everybody in an account may do",
		Long: `Make the policies in the files, JSON as IAM's, the guards of an account, in place
of those before: nobody in it may do what a guard does not allow, its root
included. A guard gives nothing by itself, as a service control policy of AWS
Organizations. Every replica goes by it within a second. --none takes guards away;
without files the guards are printed.` + whereText,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs the id of the account", c.CommandPath())
			}
			return nil
		},
	}
	verbFlags(c.Flags(), "master-key-file")
	c.Flags().Bool("none", false, "take the guards away")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		none, _ := c.Flags().GetBool("none")
		id, files := args[0], args[1:]
		if !accountForm.MatchString(id) {
			return usagef("%q is not an account: want 12 digits", id)
		}
		if none && len(files) > 0 {
			return usagef("--none takes no files")
		}
		var policies []string
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return usagef("%v", err)
			}
			policies = append(policies, string(text))
		}
		return manage(c.Context(), cfg, func(k *iam.Keys, _ *store.Store) error {
			if none || len(files) > 0 {
				return refused(k.Guard(c.Context(), id, policies))
			}
			guards, err := k.Guards(c.Context(), id)
			for _, g := range guards {
				fmt.Fprintln(c.OutOrStdout(), g)
			}
			return err
		})
	}
	return c
}
