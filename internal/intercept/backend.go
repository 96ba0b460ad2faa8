package intercept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Backend installs rules in the network namespace of the calling process.
type Backend interface {
	// Name is "nft" or "iptables".
	Name() string
	// Apply replaces what an earlier Apply left. Needs NET_ADMIN in the network namespace.
	Apply(ctx context.Context, cfg Config) error
	// Remove deletes jumps and chains; it is no error if there are none.
	Remove(ctx context.Context) error
	// Status lists the rules that are there, of others too, in the tool's own words.
	Status(ctx context.Context) (string, error)
}

// ErrNoTool means that neither nft nor iptables-restore is on PATH.
var ErrNoTool = errors.New("neither nft nor iptables-restore is on PATH: install nftables or iptables")

// Find returns the back ends that can run here, preferred first; want is "nft", "iptables" or "auto" for both.
func Find(want string) ([]Backend, error) {
	var found []Backend
	if _, err := exec.LookPath("nft"); err == nil && want != "iptables" {
		found = append(found, nft{})
	}
	if _, err := exec.LookPath("iptables-restore"); err == nil && want != "nft" {
		found = append(found, iptables{})
	}
	switch {
	case want != "auto" && want != "nft" && want != "iptables":
		return nil, fmt.Errorf("back end %q: want auto, nft or iptables", want)
	case len(found) == 0 && want != "auto":
		return nil, fmt.Errorf("back end %s is not on PATH", want)
	case len(found) == 0:
		return nil, ErrNoTool
	}
	return found, nil
}

// nft drives /usr/sbin/nft; one transaction holds both families.
type nft struct{}

func (nft) Name() string { return "nft" }

func (nft) Apply(ctx context.Context, cfg Config) error {
	_, ip6, err := nftTables(ctx)
	if err != nil {
		return err
	}
	_, err = run(ctx, cfg.NFT(ip6), "nft", "-f", "-")
	return err
}

func (nft) Remove(ctx context.Context) error {
	ip4, ip6, err := nftTables(ctx)
	if err != nil || (!ip4 && !ip6) {
		return err
	}
	_, err = run(ctx, removeNFT(ip4, ip6), "nft", "-f", "-")
	return err
}

func (nft) Status(ctx context.Context) (string, error) { return run(ctx, "", "nft", "list", "ruleset") }

// nftTables says in which families our table exists.
func nftTables(ctx context.Context) (ip4, ip6 bool, err error) {
	out, err := run(ctx, "", "nft", "list", "tables")
	for line := range strings.Lines(out) {
		switch strings.TrimSpace(line) {
		case "table ip " + nftTable:
			ip4 = true
		case "table ip6 " + nftTable:
			ip6 = true
		}
	}
	return ip4, ip6, err
}

// iptables drives iptables-save and iptables-restore, and their IPv6 twins; one transaction each.
type iptables struct{}

func (iptables) Name() string { return "iptables" }

func (iptables) Apply(ctx context.Context, cfg Config) error {
	saved, err := run(ctx, "", "iptables-save", "-t", "nat")
	if err != nil {
		return err
	}
	if _, err := run(ctx, cfg.IPTables(false, saved), "iptables-restore", "--noflush", "--wait"); err != nil {
		return err
	}
	if !cfg.IPv6 {
		return removeFamily(ctx, "ip6tables")
	}
	saved, err = run(ctx, "", "ip6tables-save", "-t", "nat")
	if err != nil {
		return err
	}
	_, err = run(ctx, cfg.IPTables(true, saved), "ip6tables-restore", "--noflush", "--wait")
	return err
}

func (iptables) Remove(ctx context.Context) error {
	return errors.Join(removeFamily(ctx, "iptables"), removeFamily(ctx, "ip6tables"))
}

// Status lists the tables filter and nat, of IPv6 too where it is there.
func (iptables) Status(ctx context.Context) (string, error) {
	var b strings.Builder
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		for _, table := range []string{"filter", "nat"} {
			out, err := run(ctx, "", tool, "-t", table)
			if err != nil && tool == "iptables-save" {
				return b.String(), err
			}
			b.WriteString(out)
		}
	}
	return b.String(), nil
}

// removeFamily removes our rules of one family. Without its tool there are none of ours, and a kernel without
// IPv6 cannot list them; neither is an error.
func removeFamily(ctx context.Context, tool string) error {
	saved, err := run(ctx, "", tool+"-save", "-t", "nat")
	if tool == "ip6tables" && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	text := removeIPTables(saved)
	if text == "" {
		return nil
	}
	_, err = run(ctx, text, tool+"-restore", "--noflush", "--wait")
	return err
}

// run executes one tool with stdin as given; the error carries what the tool said.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.Join(strings.Fields(stderr.String()), " ")
		return stdout.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}
