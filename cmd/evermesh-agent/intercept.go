package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/intercept"
)

const interceptHelp = `evermesh-agent intercept redirects the TCP traffic of this network namespace into its Envoy, as App Mesh's
route manager did. It needs the capability NET_ADMIN, and nft or iptables-restore. Running it again replaces the
rules. When its input is a terminal or a pipe that stays open it takes commands: status, enable, disable, quit.

  --remove          remove the rules
  --check           prove with connections of its own that the rules work, a line for each proof: what the
                    workload sends and gets arrives at Envoy's ports, and what Envoy sends, to the control plane
                    of APPMESH_XDS_ENDPOINT too, does not. Arriving traffic needs the capability SYS_ADMIN,
                    and is read from the rules without it. Exit code 1 if a proof fails.
  --backend NAME    nft, iptables, iptables-nft, iptables-legacy or auto (auto)

Environment variables:
  APPMESH_START_ENABLED          1 installs the rules at once; otherwise they wait for "enable"
  APPMESH_IGNORE_UID, _GID       user and group of Envoy, whose traffic is left alone
  EVERMESH_IGNORE_MARK           the same by the mark on its packets, where users cannot be told apart
  APPMESH_ENVOY_EGRESS_PORT      where outgoing traffic goes (15001)
  APPMESH_ENVOY_INGRESS_PORT     where arriving traffic goes (15000)
  APPMESH_APP_PORTS              the application's ports, separated by commas; ranges as 8000:8010
  APPMESH_EGRESS_IGNORED_IP      addresses and CIDR blocks that are left alone
  APPMESH_EGRESS_IGNORED_PORTS   ports that are left alone; 22 always is
  APPMESH_ENABLE_IPV6            1 does the same for IPv6; 0 lets it go past Envoy
  EVERMESH_DNS_CAPTURE           the mesh's name server, such as 10.0.0.2:53: DNS queries go there, but Envoy's
  EVERMESH_INTERCEPTION          none, as the agent has it where nothing may redirect: no rule is made or checked

All of it is done or nothing: if a step fails, the rules that were there are put back.
Exit codes: 0 done, 1 a variable is wrong, as the route manager had it, or it failed, 2 wrong flags.
`

// notIntercepted is said where nothing is to be done.
const notIntercepted = "EVERMESH_INTERCEPTION=none: nothing is to be redirected, so there are no rules to make or to check; --remove removes those of an earlier run"

// intercepting is evermesh-agent intercept. Wrong variables exit with 1, as the route manager did (ICPT-008).
func intercepting(ctx context.Context, args []string, getenv func(string) string, environ []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("evermesh-agent intercept", flag.ContinueOnError)
	remove := flags.Bool("remove", false, "")
	check := flags.Bool("check", false, "")
	backend := flags.String("backend", "auto", "")
	if err := parse("intercept", flags, args); err != nil {
		return err
	}
	if err := noArguments("intercept", flags.Args()); err != nil {
		return err
	}
	if *check && *remove {
		return usage("intercept", errors.New("takes one of --check and --remove"))
	}
	if !*remove {
		none, err := settings.NoInterception(getenv)
		if err != nil {
			return err
		}
		if none {
			return say(stdout, notIntercepted+"\n")
		}
	}
	backends, err := intercept.Find(*backend)
	if errors.Is(err, intercept.ErrBackend) {
		return usage("intercept", err)
	}
	if *check && (err == nil || errors.Is(err, intercept.ErrNoTool)) {
		return checkRules(ctx, backends, getenv, stdout)
	}
	if err != nil {
		return err
	}
	if *remove {
		return removeRules(ctx, backends, stdout)
	}
	fmt.Fprintln(stdout, "=== Input configuration ===")
	for _, v := range slices.Sorted(slices.Values(environ)) {
		if strings.HasPrefix(v, "APPMESH_") || strings.HasPrefix(v, "EVERMESH_IGNORE_MARK=") || strings.HasPrefix(v, "EVERMESH_DNS_CAPTURE=") {
			fmt.Fprintln(stdout, v)
		}
	}
	cfg, err := intercept.Parse(getenv)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "=== Initializing ===")
	r := &router{backends: backends, cfg: cfg, out: stdout}
	if err := r.apply(ctx); err != nil {
		return err
	}
	return r.loop(ctx, stdin)
}

// router installs the rules with the first back end that can, and obeys the route manager's commands.
type router struct {
	backends []intercept.Backend
	cfg      intercept.Config
	used     intercept.Backend
	out      io.Writer
}

// apply installs the configuration, all of it or nothing. A signal meanwhile has what was there put back.
func (r *router) apply(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	done, err := intercept.Install(ctx, r.backends, r.cfg)
	if err != nil {
		return err
	}
	r.used = done.Backend
	if done.HalfDone {
		fmt.Fprintf(r.out, "an earlier run was interrupted: rules were in %s; they are replaced\n", strings.Join(done.Found, ", "))
	}
	if r.cfg.Enabled {
		fmt.Fprintln(r.out, "=== Enabling routing ===")
	}
	fmt.Fprintf(r.out, "%s\n", r.cfg.Summary(r.used.Name()))
	return nil
}

// loop reads commands until quit or the end of input, which leaves the rules in place (ICPT-018, ICPT-021).
func (r *router) loop(ctx context.Context, stdin io.Reader) error {
	fmt.Fprintln(r.out, "=== Entering main loop ===")
	lines := bufio.NewScanner(stdin)
	for ctx.Err() == nil {
		fmt.Fprint(r.out, "> ")
		if !lines.Scan() {
			fmt.Fprintln(r.out)
			return lines.Err()
		}
		var err error
		switch strings.TrimSpace(lines.Text()) {
		case "status":
			var text string
			text, err = r.used.Status(ctx)
			fmt.Fprintln(r.out, text)
		case "enable":
			r.cfg.Enabled = true
			err = r.apply(ctx)
		case "disable":
			fmt.Fprintln(r.out, "=== Disabling routing ===")
			r.cfg.Enabled = false
			err = r.apply(ctx)
		case "quit":
			return removeRules(ctx, r.backends, r.out)
		default:
			fmt.Fprintln(r.out, "Available commands: quit, status, enable, disable")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeRules takes away what any back end holds, all of it or nothing.
func removeRules(ctx context.Context, backends []intercept.Backend, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	found, err := intercept.Uninstall(ctx, backends)
	if err != nil {
		return err
	}
	for _, tool := range found {
		fmt.Fprintf(stdout, "%s: rules removed\n", tool)
	}
	fmt.Fprintln(stdout, "no rules of ours are left")
	return nil
}
