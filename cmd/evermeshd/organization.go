package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
)

// organizationCommand is how an operator says which accounts belong together.
func organizationCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "organization",
		Short: "Which accounts belong together, for sharing",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the organization as JSON",
		Long:  `Print the organization as JSON, in the form that set takes.` + whereText,
		Args:  noArguments,
	}
	verbFlags(show.Flags())
	show.RunE = func(c *cobra.Command, _ []string) error {
		return withStore(c, func(ctx context.Context, s *store.Store) error {
			o, err := share.ReadOrganization(ctx, s)
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(o, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), string(text))
			return err
		})
	}
	set := &cobra.Command{
		Use:   "set FILE",
		Short: "Replace the organization by that in a JSON file",
		Long: `Replace the organization by that in a JSON file, such as

  {"id": "o-evermeshorg",
   "accounts": ["111122223333"],
   "units": {"ou-shop-frontends": ["222233334444", "333344445555"]}}

Accounts of a unit are members, and so is the first account of the control plane,
which speaks for the organization. Without "accounts" all accounts are. It acts on
every replica within a second: an account that is a member no more loses what was
shared with it as one.` + whereText,
		Args: oneArgument("the file"),
	}
	verbFlags(set.Flags())
	set.RunE = func(c *cobra.Command, args []string) error {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return usagef("%v", err)
		}
		o := share.Organization{ID: share.DefaultOrganization}
		strict := json.NewDecoder(bytes.NewReader(text))
		strict.DisallowUnknownFields() // a member that is meant and not read would let others in
		if err := strict.Decode(&o); err != nil {
			return usagef("%s: %v", args[0], err)
		}
		if err := o.Check(); err != nil {
			return usagef("%s: %v", args[0], err)
		}
		return withStore(c, func(ctx context.Context, s *store.Store) error { return share.SetOrganization(ctx, s, o) })
	}
	c.AddCommand(set, show)
	return c
}

// withStore runs f with the store of a control plane that exists.
func withStore(c *cobra.Command, f func(context.Context, *store.Store) error) (err error) {
	cfg, err := loadVerb(c.Flags())
	if err != nil {
		return err
	}
	s, err := openExisting(c.Context(), cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(c.Context(), s)
}
