package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/store"
)

// auditCommand is the operator's word on replicas that have events.
func auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Replicas that have events",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	list := &cobra.Command{
		Use:   "replicas",
		Short: "List the replicas that have events",
		Long: `List the replicas on an external etcd that have events of the last 90 days, and
whether they answer. Lookups say of one that is gone that its events are missing.` + whereText,
		Args: noArguments,
	}
	verbFlags(list.Flags())
	list.RunE = func(c *cobra.Command, _ []string) error {
		return withStore(c, func(ctx context.Context, s *store.Store) error {
			all, err := audit.Holders(ctx, s)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "REPLICA\tSTATE\tURL\tLAST EVENTS")
			for _, h := range all {
				state, last := "gone", h.Until.Format(time.RFC3339)
				if h.Answers {
					state, last = "running", "-"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", h.Name, state, h.URL, last)
			}
			return w.Flush()
		})
	}
	forget := &cobra.Command{
		Use:   "forget REPLICA",
		Short: "Have lookups miss a replica no more",
		Long: `Have lookups miss a replica no more: its data directory is lost, or not to come
back. If it does come back, its events are found again.` + whereText,
		Args: oneArgument("the name of a replica"),
	}
	verbFlags(forget.Flags())
	forget.RunE = func(c *cobra.Command, args []string) error {
		return withStore(c, func(ctx context.Context, s *store.Store) error {
			known, err := audit.Forget(ctx, s, args[0])
			if err == nil && !known {
				return usagef("no replica %s has events: see evermeshd audit replicas", args[0])
			}
			return err
		})
	}
	c.AddCommand(list, forget)
	return c
}
