// Command evermesh is the command line of Evermesh: settings for AWS's tools,
// what the connected proxies hold, what became of a resource and how far a change
// has come, resources in files applied, planned and exported, and, offline, the
// Envoy configuration that they would give.
//
// Each subcommand is a file of its name; call.go reaches the control plane and
// files.go reads resources.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/man"
)

// version is set by the build with -ldflags -X.
var version = "devel"

// Exit codes of the program: interfaces promise them.
const (
	exitFailure = 1
	exitUsage   = 2
	exitRefused = 3
	exitTimeout = 4
	exitChanges = 5
	exitPutBack = 6
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program with everything that it touches given; it returns the exit
// code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	completionCommand(root)
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		plainFlags(root)
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := exitFailure
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if text := err.Error(); text != "" {
		_, _ = fmt.Fprintf(stderr, "evermesh: %s\n", oneLine(text))
	}
	return code
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "evermesh",
		Short: "Looks into an Evermesh service mesh and waits for its changes",
		Long: `evermesh looks into an Evermesh service mesh. Resources are made and changed
with AWS's own tools (see "evermesh env"), or from files with evermesh apply;
evermesh shows what would become of them, and what became.

Exit codes: 0 done; 1 something failed; 2 wrong usage, or a file that cannot be
used; 3 a proxy refused the configuration (rollout); 4 time-out (rollout,
drain); 5 there is something to change (plan --detailed-exitcode); 6 a route was
put back (shift).`,
		Example: `  eval "$(evermesh env)"
  aws appmesh update-route --cli-input-json file://route.json
  evermesh rollout mesh/shop/virtualRouter/orders/route/main
  evermesh proxies --mesh shop`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is not a command: see %s --help", args[0], c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v: see %s --help", err, c.CommandPath())
	})
	pages := man.Command("Evermesh " + version)
	pages.Args = noArguments
	root.AddCommand(applyCommand(), drainCommand(), ecsCommand(), envCommand(), explainCommand(), exportCommand(), planCommand(), proxiesCommand(), rolloutCommand(), settingsCommand(), shiftCommand(), xdsCommand(), pages, &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "evermesh", versionText())
			return err
		},
	})
	return root
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, but got %q: see %s --help", c.CommandPath(), args[0], c.CommandPath())
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

// exitError ends the program with a code of its own. An empty text says that
// everything was told already.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// usagef is wrong usage, or a file that cannot be used: exit code 2.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Sprintf(format, args...)}
}

// oneLine keeps a problem on a line of its own, whatever a server or Envoy put
// into its text.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
