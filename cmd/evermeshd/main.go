// Command evermeshd is the control plane: the App Mesh API, the management
// service that Envoys connect to, and the store behind both.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/man"
)

// version is set by the build with -ldflags -X.
var version = "devel"

// Exit codes of the program: interfaces promise them.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := command()
	root.SetArgs(args)
	completionCommand(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	text := err.Error()
	if known, ok := errors.AsType[*api.Error](err); ok {
		// The codes of AWS's API mean nothing to who ran a command.
		text = strings.ReplaceAll(text, known.Error(), known.Message)
	}
	fmt.Fprintf(os.Stderr, "evermeshd: %s\n", text)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return exitFailure
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "evermeshd",
		Short: "The Evermesh control plane",
		Long: `evermeshd serves the App Mesh API and the management service that Envoys connect
to, and keeps both in etcd. Its other commands work on what it keeps.

Exit codes: 0 done, and after SIGTERM; 1 something failed; 2 wrong usage or
configuration.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, c.CommandPath())
	})
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane until SIGTERM",
		Long: `Run the control plane until SIGTERM.

Every flag may also be given in the environment (--api-listen as
EVERMESH_API_LISTEN) or in the YAML file that --config names, under the flag's
name. A flag outranks the environment, and the environment the file.`,
		Args: noArguments,
	}
	check := &cobra.Command{
		Use:   "check-config",
		Short: "Print the effective configuration as YAML, or say what is wrong with it",
		Args:  noArguments,
	}
	for _, c := range []*cobra.Command{serve, check} {
		addFlags(c.Flags())
	}
	serve.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return err
		}
		return serveUntilDone(c.Context(), cfg)
	}
	check.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := load(c.Flags(), os.LookupEnv); err != nil {
			return err
		}
		return printConfig(c.OutOrStdout(), c.Flags())
	}
	root.AddCommand(serve, check)
	root.AddCommand(verbs()...)
	pages := man.Command("Evermesh " + version)
	pages.Args = noArguments
	root.AddCommand(pages, &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "evermeshd", versionText())
			return err
		},
	})
	return root
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, but got %q", c.CommandPath(), args[0])
	}
	return nil
}

// versionText is the version with the Go release that built it.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	return version + " (" + info.GoVersion + ")"
}

// usageError is wrong usage or configuration: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }
