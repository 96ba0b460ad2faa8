package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/store"
)

func backupCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all that the control plane keeps to a file",
		Long: `Write all that the control plane keeps, as of one moment, to a file with a
checksum, or to standard output for "-". Replicas go on meanwhile. The file has
mode 0600 and is there whole or not at all; one of that name is replaced in one
step, and stays as it is when the backup fails.

Secrets in it are sealed: keep a copy of the master key elsewhere, for without
it nobody can use the access keys in a backup.` + whereText,
		Args: oneArgument("the file to write"),
	}
	verbFlags(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		return backUp(c.Context(), cfg, args[0], c.OutOrStdout(), c.ErrOrStderr())
	}
	return c
}

func backUp(ctx context.Context, cfg config, file string, stdout, stderr io.Writer) (err error) {
	if at, err := os.Stat(file); err == nil && at.IsDir() {
		return usagef("backup: %s is a directory: name the file to write", file)
	}
	s, err := openExisting(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	report := reporter(stderr)
	var info store.BackupInfo
	if file == "-" {
		info, err = s.Backup(ctx, stdout, report)
	} else {
		err = writeWhole(file, func(w io.Writer) error {
			info, err = s.Backup(ctx, w, report)
			return err
		})
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "evermeshd: backed up %d records at revision %d, %d bytes, sha256 %s\n", info.Records, info.Revision, info.Bytes, info.Checksum)
	return nil
}

// writeWhole makes or replaces a file that only its owner may read. Whoever
// opens it sees the old or the new one, whole.
func writeWhole(file string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("%s is not written: %w", file, err)
	}
	dir, err := os.Open(filepath.Dir(file))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// reporter tells of progress, at most once a second.
func reporter(w io.Writer) func(store.BackupInfo) {
	next := time.Now().Add(time.Second)
	return func(info store.BackupInfo) {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			fmt.Fprintf(w, "evermeshd: %d records, %d MiB\n", info.Records, info.Bytes>>20)
		}
	}
}

func restoreCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup into an empty store",
		Long: `Put a backup into an empty store, embedded or external, whichever it was made
from; "-" reads standard input. Nothing is written before the whole file was
read and its checksum found right. No replica may run on the store meanwhile,
and none starts on it until it is whole: repeat a restore that was interrupted.

Names, versions, times, owners, tags and access keys are as they were. Start
evermeshd with the master key that the control plane had. Where that is lost,
--without-accounts leaves out accounts with their users, roles, policies and keys:
the next start makes the first account anew, and evermeshd account add the others.
Private authorities and certificates come back without a use, as their keys cannot
be opened.

The settings are those of evermeshd serve, and so are the environment and the
file that --config names.`,
		Args: oneArgument("the file to read"),
	}
	verbFlags(c.Flags())
	c.Flags().Bool("without-accounts", false, "leave out accounts, users, roles, policies and access keys, for when the master key is lost")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadVerb(c.Flags())
		if err != nil {
			return err
		}
		var without []string
		if lost, _ := c.Flags().GetBool("without-accounts"); lost {
			without = append(without, "account/")
		}
		return restore(c.Context(), cfg, args[0], c.InOrStdin(), c.ErrOrStderr(), without...)
	}
	return c
}

func restore(ctx context.Context, cfg config, file string, stdin io.Reader, stderr io.Writer, without ...string) (err error) {
	from, err := openBackup(file, stdin)
	if err != nil {
		return err
	}
	defer from.Close()
	// Before anything is made in the data directory.
	if _, err := store.CheckBackup(from); err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	o := cfg.storeOptions()
	o.Restoring = true
	s, err := store.Open(ctx, o)
	if err != nil {
		return misconfigured(err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	info, err := s.Restore(ctx, from, reporter(stderr), without...)
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	fmt.Fprintf(stderr, "evermeshd: restored %d records of %s\n", info.Records, info.Created.Format(time.RFC3339))
	return nil
}

// openBackup opens a file that can be read twice.
func openBackup(file string, stdin io.Reader) (*os.File, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("restore: %v", err)
		}
		return f, nil
	}
	f, err := os.CreateTemp("", "evermesh-restore-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, stdin)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("restore: read standard input: %w", err), f.Close())
	}
	return f, nil
}
