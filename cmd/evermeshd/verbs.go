package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evermesh/evermesh/internal/store"
)

// verbs are the commands that work on the store of a control plane, whether it
// runs or not.
func verbs() []*cobra.Command {
	account := &cobra.Command{
		Use:   "account",
		Short: "Accounts of the control plane",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	account.AddCommand(accountAddCommand(), accountListCommand(), accountGuardCommand())
	credentials := &cobra.Command{
		Use:   "credentials",
		Short: "Root keys of accounts",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	credentials.AddCommand(credentialsResetCommand())
	return []*cobra.Command{backupCommand(), restoreCommand(), account, credentials, rotateCommand(), organizationCommand(), quotaCommand(), auditCommand()}
}

// whereText ends the help of each verb.
const whereText = `

The settings are those of evermeshd serve, and so are the environment and the
file that --config names. With embedded etcd it works while evermeshd runs, as
the same user, through a socket in the data directory, and while it is stopped.`

// storeFlags say where the store is; every verb has them.
var storeFlags = []string{"config", "data-dir", "etcd-endpoints", "etcd-cacert", "etcd-cert", "etcd-key", "etcd-prefix"}

// verbFlags gives a verb all settings of serve, as one file may have them all,
// and shows those that it uses.
func verbFlags(f *pflag.FlagSet, more ...string) {
	addFlags(f)
	f.VisitAll(func(flag *pflag.Flag) {
		flag.Hidden = !slices.Contains(storeFlags, flag.Name) && !slices.Contains(more, flag.Name)
	})
}

// oneArgument wants what a verb works on.
func oneArgument(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("%s takes %s, but got none: see %s --help", c.CommandPath(), name, c.CommandPath())
		case len(args) > 1:
			return usagef("%s takes one argument, %s, but got %d: see %s --help", c.CommandPath(), name, len(args), c.CommandPath())
		case args[0] == "":
			return usagef("%s: %s is empty", c.CommandPath(), name)
		}
		return nil
	}
}

// loadVerb is load without what concerns only who serves.
func loadVerb(f *pflag.FlagSet) (config, error) {
	if err := fromEnvironment(f, os.LookupEnv); err != nil {
		return config{}, err
	}
	if err := fromFile(f); err != nil {
		return config{}, err
	}
	get := func(name string) string { return f.Lookup(name).Value.String() }
	endpoints, _ := f.GetStringSlice("etcd-endpoints")
	c := config{
		DataDir: get("data-dir"), EtcdEndpoints: endpoints, EtcdCACert: get("etcd-cacert"), EtcdCert: get("etcd-cert"),
		EtcdKey: get("etcd-key"), EtcdPrefix: get("etcd-prefix"), MasterKeyFile: get("master-key-file"),
		Partition: get("partition"), Account: get("account"),
	}
	if c.MasterKeyFile == "" && len(c.EtcdEndpoints) == 0 {
		c.MasterKeyFile = filepath.Join(c.DataDir, "master-key")
	}
	if (c.EtcdCert == "") != (c.EtcdKey == "") {
		return config{}, usagef("--etcd-cert and --etcd-key belong together: give both or none")
	}
	return c, nil
}

// openExisting opens the store for a verb that needs one that is there.
func openExisting(ctx context.Context, c config) (*store.Store, error) {
	if len(c.EtcdEndpoints) == 0 {
		if _, err := os.Stat(filepath.Join(c.DataDir, "etcd")); errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("--data-dir %s holds no store: give the one that evermeshd serve has, or --etcd-endpoints", c.DataDir)
		}
	}
	o := c.storeOptions()
	o.Attach = true
	s, err := store.Open(ctx, o)
	return s, misconfigured(err)
}

// storeOptions are the store's as the settings say.
func (c config) storeOptions() store.Options {
	// One line tells what became of a verb; etcd's warnings would be others.
	o := store.Options{Prefix: c.EtcdPrefix, Log: slog.New(slog.DiscardHandler)}
	if len(c.EtcdEndpoints) > 0 {
		o.Endpoints, o.CACert, o.Cert, o.Key = c.EtcdEndpoints, c.EtcdCACert, c.EtcdCert, c.EtcdKey
	} else {
		o.DataDir = c.DataDir
	}
	return o
}
