package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
)

var accountForm = regexp.MustCompile(`^[0-9]{12}$`)

// manage runs f with the keys of a control plane that exists.
func manage(ctx context.Context, cfg config, f func(*iam.Keys, *store.Store) error) (err error) {
	if cfg.MasterKeyFile == "" {
		return usagef("--master-key-file is required with --etcd-endpoints: all replicas need the same key")
	}
	s, err := openExisting(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	keys, err := iam.Manage(ctx, iam.Config{
		Store: s, Partition: cfg.Partition, Account: cfg.Account, MasterKeyFile: cfg.MasterKeyFile,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err == nil {
		err = f(keys, s)
	}
	if _, wrong := errors.AsType[*seal.MasterKeyError](err); wrong {
		return usagef("%v", err)
	}
	return err
}

// refused makes what the user got wrong wrong usage.
func refused(err error) error {
	if known, ok := errors.AsType[*api.Error](err); ok && known.Code == api.CodeBadRequest {
		return usagef("%s", known.Message)
	}
	return err
}

const credentialsFlag = "credentials-file"

func accountAddCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "add ID",
		Short: "Make another account with a root key",
		Long: `Make another account, 12 digits, and write its root key to an AWS
shared-credentials file with mode 0600. Every replica takes the key at
once.` + whereText,
		Args: oneArgument("the id of the account"),
	}
	verbFlags(c.Flags(), "master-key-file")
	c.Flags().String(credentialsFlag, "", "`file` for the root key, - for standard output (default DATA_DIR/credentials-ID)")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		id := args[0]
		if !accountForm.MatchString(id) {
			return usagef("%q is not an account: want 12 digits", id)
		}
		if err := deliverable(c); err != nil {
			return err
		}
		return manage(c.Context(), cfg, func(k *iam.Keys, _ *store.Store) error {
			root, err := k.AddAccount(c.Context(), id)
			if err != nil {
				return refused(err)
			}
			return deliver(c, cfg, id, root)
		})
	}
	return c
}

func accountListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the accounts",
		Long:  `List the accounts of the control plane, one id a line.` + whereText,
		Args:  noArguments,
	}
	verbFlags(c.Flags(), "master-key-file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		return manage(c.Context(), cfg, func(k *iam.Keys, _ *store.Store) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), strings.Join(k.Accounts(), "\n"))
			return err
		})
	}
	return c
}

func credentialsResetCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "reset [ID]",
		Short: "Replace the root key of an account",
		Long: `Replace the root key of an account, the first one unless another is named, and
write the new one to an AWS shared-credentials file with mode 0600. The old key
stops working on every replica within a second: agents and tools that sign with
it need the new one.` + whereText,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes at most the id of an account, but got %q", c.CommandPath(), args)
			}
			return nil
		},
	}
	verbFlags(c.Flags(), "master-key-file", "account")
	c.Flags().String(credentialsFlag, "", "`file` for the root key, - for standard output (default DATA_DIR/credentials, for other accounts DATA_DIR/credentials-ID)")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		id := cfg.Account
		if len(args) > 0 {
			id = args[0]
		}
		if !accountForm.MatchString(id) {
			return usagef("%q is not an account: want 12 digits", id)
		}
		if err := deliverable(c); err != nil {
			return err
		}
		return manage(c.Context(), cfg, func(k *iam.Keys, _ *store.Store) error {
			root, err := k.ResetRoot(c.Context(), id)
			if err != nil {
				return err
			}
			return deliver(c, cfg, id, root)
		})
	}
	return c
}

// deliverable refuses a file for a root key that cannot be made, before there is
// a key.
func deliverable(c *cobra.Command) error {
	file, _ := c.Flags().GetString(credentialsFlag)
	if file == "" || file == "-" {
		return nil
	}
	if at, err := os.Stat(file); err == nil && at.IsDir() {
		return usagef("--%s %s is a directory: name the file to write", credentialsFlag, file)
	}
	dir := filepath.Dir(file)
	if at, err := os.Stat(dir); err != nil || !at.IsDir() {
		return usagef("--%s %s: there is no directory %s", credentialsFlag, file, dir)
	}
	return nil
}

// deliver writes a new root key where it is wanted. It is shown only once.
func deliver(c *cobra.Command, cfg config, id string, root iam.AccessKey) error {
	file, _ := c.Flags().GetString(credentialsFlag)
	if file == "-" {
		_, err := c.OutOrStdout().Write(iam.Credentials(id, root))
		return err
	}
	if file == "" {
		file = filepath.Join(cfg.DataDir, "credentials")
		if id != cfg.Account {
			file += "-" + id
		}
	}
	if err := iam.WriteCredentials(file, id, root); err != nil {
		return fmt.Errorf("the root key of account %s was made, and could not be written: %w; evermeshd credentials reset %s makes another", id, err, id)
	}
	fmt.Fprintf(c.ErrOrStderr(), "evermeshd: the root key of account %s is in %s\n", id, file)
	return nil
}

func rotateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate-master-key",
		Short: "Change the key that seals secrets at rest",
		Long: `Change the key that seals secrets at rest. It adds a new key to the master key
file as its last line, waits until every replica accepts it, seals all that is
stored with it, and takes the old line out. Replicas go on meanwhile and read
the file again by themselves. Run it again if it was interrupted.

Sessions go on, those that were made before for 36 hours at most; with
--end-sessions they end at once, as is right when the key is known to others.

Where replicas have files of their own, it stops after the first step and names
them: copy the file to them and run it again. In the end, take the first line
out of their files too.` + whereText,
		Args: noArguments,
	}
	verbFlags(c.Flags(), "master-key-file")
	c.Flags().Duration("wait", time.Minute, "how `long` replicas have time to accept the new key")
	c.Flags().Bool("end-sessions", false, "end all sessions of users and roles that were made until now")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		wait, _ := c.Flags().GetDuration("wait")
		end, _ := c.Flags().GetBool("end-sessions")
		return manage(c.Context(), cfg, func(k *iam.Keys, s *store.Store) error {
			return rotate(c.Context(), k, seal.RotateOptions{Alone: s.Alone(), Wait: wait, End: end}, c.ErrOrStderr())
		})
	}
	return c
}

func rotate(ctx context.Context, k *iam.Keys, o seal.RotateOptions, stderr io.Writer) error {
	o.Say = func(text string) { fmt.Fprintf(stderr, "evermeshd: %s\n", text) }
	n, err := k.Box().Rotate(ctx, []seal.Place{iam.Place(), certs.Place()}, o)
	if err != nil {
		return err
	}
	o.Say(fmt.Sprintf("sealed %d secrets with the new master key; keep a copy of it apart", n))
	return nil
}
