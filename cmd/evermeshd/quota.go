package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/quota"
	"github.com/evermesh/evermesh/internal/store"
)

// openQuotas reads the quotas of all accounts.
func (d *daemon) openQuotas(ctx context.Context) error {
	c := quota.Config{
		Store: d.store, Realm: d.realm(), Bound: d.config.QuotaBound,
		Log: d.log, Now: time.Now, NewID: uuid.NewString,
	}
	if d.config.Quotas == "aws" {
		c.Base = mesh.AppMeshQuotas()
	}
	var err error
	d.quotas, err = quota.Open(ctx, c)
	return err
}

// quotaCommand is the operator's word on quotas of accounts.
func quotaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "quota",
		Short: "Quotas of accounts",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	list := &cobra.Command{
		Use:   "list ACCOUNT",
		Short: "Print the quotas of an account, and what it asks for",
		Long: `Print the quotas of an account: AWS's default, what applies, what the operator
set, what was granted to the account, and what it asks for and nobody has answered.
What applies where nothing is set depends on the --quotas that evermeshd runs with:
that of the one on --data-dir, unless --quotas is given or the store is that of
--etcd-endpoints. On stderr it says which it went by.` + whereText,
		Args: oneArgument("an account"),
	}
	verbFlags(list.Flags(), "quotas")
	list.RunE = func(c *cobra.Command, args []string) error {
		return withQuotas(c, args[0], func(ctx context.Context, l *quota.Limits, profile string) error {
			fmt.Fprintln(c.ErrOrStderr(), profile)
			all, err := l.States(ctx, args[0])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "CODE\tNAME\tDEFAULT\tAPPLIED\tSET\tGRANTED\tASKED")
			for _, s := range all {
				set := "-"
				if s.Set != nil {
					set = limitText(*s.Set)
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", s.Code, s.Name, s.Default, limitText(s.Applied), set, orDash(s.Granted), orDash(s.Open))
			}
			return w.Flush()
		})
	}
	set := &cobra.Command{
		Use:   "set ACCOUNT CODE VALUE",
		Short: "Set a quota of an account",
		Long: `Set a quota of an account: a number, none for no limit, or default for what
--quotas says. It acts on every replica within a second. What the account had been
granted is taken back, and its request that is open, if any, is approved if the value
reaches it, and else not approved.

  evermeshd quota set 111122223333 L-E043DFB4 500` + whereText,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef("%s takes an account, the code of a quota and a value, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
	}
	verbFlags(set.Flags(), "quotas")
	set.RunE = func(c *cobra.Command, args []string) error {
		n, err := limitValue(args[2])
		if err != nil {
			return err
		}
		return withQuotas(c, args[0], func(ctx context.Context, l *quota.Limits, _ string) error { return l.Set(ctx, args[0], args[1], n) })
	}
	c.AddCommand(list, set)
	return c
}

// limitValue is what a quota is set to: nil for the default, 0 for no limit.
func limitValue(text string) (*int, error) {
	switch text {
	case "default":
		return nil, nil
	case "none":
		return new(0), nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n >= quota.NoLimit {
		return nil, usagef("%q is not a value: want a number from 1 on, none or default", text)
	}
	return &n, nil
}

func limitText(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

func orDash(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

// profile is the --quotas by which an account's quotas are worked out, and a sentence that
// says so: what the caller gives, else what evermeshd runs with on the same data
// directory. Of an external etcd it is not known who runs on it.
func profile(c *cobra.Command) (name, said string) {
	f := c.Flags()
	if own := f.Lookup("quotas"); own.Changed {
		name = own.Value.String()
		return name, "What applies is by --quotas " + name + ", as this command was told."
	}
	dir := f.Lookup("data-dir").Value.String()
	if !f.Lookup("etcd-endpoints").Changed {
		if facts, err := client.ReadFacts(dir); err == nil && facts.Quotas != "" {
			return facts.Quotas, "What applies is by --quotas " + facts.Quotas + ", with which evermeshd was started on " + dir + "."
		}
	}
	return "none", "What applies is by --quotas none: give --quotas aws if evermeshd runs with that."
}

// withQuotas runs f with the quotas of a control plane that exists, and what is to be
// said of how they are worked out.
func withQuotas(c *cobra.Command, account string, f func(ctx context.Context, l *quota.Limits, said string) error) error {
	if !accountForm.MatchString(account) {
		return usagef("%q is not an account: want 12 digits", account)
	}
	return withStore(c, func(ctx context.Context, s *store.Store) error {
		config := quota.Config{Store: s, Log: slog.New(slog.DiscardHandler), Now: time.Now}
		name, said := profile(c)
		if name == "aws" {
			config.Base = mesh.AppMeshQuotas()
		}
		l, err := quota.Open(ctx, config)
		if err != nil {
			return err
		}
		return f(ctx, l, said)
	})
}
