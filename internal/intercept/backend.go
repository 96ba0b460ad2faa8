package intercept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Backend installs rules in the network namespace of the calling thread.
type Backend interface {
	// Name is "nft", "iptables", or "iptables-nft" and "iptables-legacy" where a machine has both forms of iptables.
	Name() string
	// Apply replaces what an earlier Apply left, in both address families or in none: where one fails, the other is
	// as it was. Needs NET_ADMIN in the network namespace. A [*ForeignError] says that nothing was tried.
	Apply(ctx context.Context, cfg Config) error
	// Remove deletes jumps and chains, of both families or of none; it is no error if there are none.
	Remove(ctx context.Context) error
	// Status lists the rules that are there, of others too, in the tool's own words.
	Status(ctx context.Context) (string, error)

	// steps are what installing cfg takes; nil removes.
	steps(cfg *Config) []step
	// wanted are the lines that look finds once cfg is installed, one slice for each step.
	wanted(cfg Config) [][]string
}

// ErrNoTool means that neither nft nor iptables-restore is on PATH.
var ErrNoTool = errors.New("neither nft nor iptables-restore is on PATH: install nftables or iptables")

// ErrBackend means that there is no back end of that name.
var ErrBackend = errors.New("want auto, nft, iptables, iptables-nft or iptables-legacy")

// Find returns the back ends that can run here, preferred first. want is "nft", "iptables", "iptables-nft",
// "iptables-legacy", or "auto" for all: nft, the machine's iptables, and the other form of iptables if there is one,
// which may hold rules that the first does not show.
func Find(want string) ([]Backend, error) {
	var found []Backend
	switch want {
	case "auto", "nft", "iptables", "iptables-nft", "iptables-legacy":
	default:
		return nil, fmt.Errorf("back end %q: %w", want, ErrBackend)
	}
	if _, err := exec.LookPath("nft"); err == nil && (want == "auto" || want == "nft") {
		found = append(found, nft{})
	}
	kinds := map[bool]bool{}
	for _, name := range []string{"iptables", "iptables-nft", "iptables-legacy"} {
		if want != "auto" && want != name {
			continue
		}
		if _, err := exec.LookPath(name + "-restore"); err != nil {
			continue
		}
		if legacy := isLegacy(name); !kinds[legacy] {
			kinds[legacy] = true
			found = append(found, iptables{name, legacy})
		}
	}
	switch {
	case len(found) == 0 && want != "auto":
		return nil, fmt.Errorf("back end %s is not on PATH", want)
	case len(found) == 0:
		return nil, ErrNoTool
	}
	return found, nil
}

// isLegacy says whether the tool speaks to the kernel's older tables; those before 1.8 do, and do not say so.
func isLegacy(name string) bool {
	out, err := run(context.Background(), "", name+"-restore", "--version")
	return err == nil && !strings.Contains(out, "nf_tables")
}

// nft drives /usr/sbin/nft; one transaction holds both families.
type nft struct{}

func (nft) Name() string { return "nft" }

func (b nft) Apply(ctx context.Context, cfg Config) error { return apply(ctx, b, &cfg) }

func (b nft) Remove(ctx context.Context) error { return apply(ctx, b, nil) }

func (nft) Status(ctx context.Context) (string, error) { return run(ctx, "", "nft", "list", "ruleset") }

func (nft) steps(cfg *Config) []step { return []step{{unit: nftUnit{}, cfg: cfg}} }

// iptables drives iptables-save and iptables-restore, and their IPv6 twins; one transaction each.
type iptables struct {
	name   string // "iptables", "iptables-nft" or "iptables-legacy"
	legacy bool
}

func (b iptables) Name() string { return b.name }

func (b iptables) Apply(ctx context.Context, cfg Config) error { return apply(ctx, b, &cfg) }

func (b iptables) Remove(ctx context.Context) error { return apply(ctx, b, nil) }

func (b iptables) unit(ip6 bool) iptablesUnit {
	tool := b.name
	if ip6 {
		tool = "ip6" + strings.TrimPrefix(tool, "ip")
	}
	return iptablesUnit{tool, ip6, b.legacy}
}

// steps has IPv6 optional unless it is wanted: without its tool there are none of ours, and a kernel without IPv6
// cannot list them.
func (b iptables) steps(cfg *Config) []step {
	steps := []step{{unit: b.unit(false), cfg: cfg}, {unit: b.unit(true), cfg: cfg}}
	if cfg == nil || !cfg.IPv6 {
		steps[1].cfg, steps[1].optional = nil, true
	}
	return steps
}

// Status lists the tables filter and nat, of IPv6 too where it is there.
func (b iptables) Status(ctx context.Context) (string, error) {
	var text strings.Builder
	for _, u := range []iptablesUnit{b.unit(false), b.unit(true)} {
		for _, table := range []string{"filter", "nat"} {
			out, err := run(ctx, "", u.tool+"-save", "-t", table)
			if err != nil && !u.ip6 {
				return text.String(), err
			}
			text.WriteString(out)
		}
	}
	return text.String(), nil
}

// apply is Apply, and Remove where cfg is nil, of any back end.
func apply(ctx context.Context, b Backend, cfg *Config) error {
	_, err := transact(ctx, b.steps(cfg))
	return err
}

// killWait is how long a killed tool's output is waited for, which a child of its own may hold open.
const killWait = time.Second

// run executes one tool with stdin as given; the error carries what the tool said.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = killWait
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.Join(strings.Fields(stderr.String()), " ")
		return stdout.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}
