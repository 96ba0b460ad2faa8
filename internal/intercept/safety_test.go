package intercept_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// tools are all programs that change or list rules, on a machine that has them all.
var tools = []string{
	"nft", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore",
	"iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore",
	"iptables-legacy-save", "iptables-legacy-restore", "ip6tables-legacy-save", "ip6tables-legacy-restore",
}

// failing are stand-ins before the real tools on PATH. Each call that changes something counts; what the file
// "plan" says of its number happens: "before" fails without doing it, "after" does it and fails, "kill" does it and kills the
// caller, "hang" never ends. All other calls are the real tool's.
type failing struct{ dir string }

func newFailing(t *testing.T) failing {
	t.Helper()
	f := failing{t.TempDir()}
	for _, name := range tools {
		real, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		script := fmt.Sprintf(`#!/bin/sh
changes=no
case "$0 $*" in *-restore\ *--noflush*|*nft\ -f*) changes=yes;; esac
[ $changes = yes ] || exec %[1]s "$@"
n=$(($(cat %[2]s/calls 2>/dev/null || echo 0) + 1))
echo $n >%[2]s/calls
case "$(grep "^$n " %[2]s/plan 2>/dev/null)" in
*before) echo "refused by the test" >&2; exit 1;;
*after) %[1]s "$@"; echo "failed by the test" >&2; exit 1;;
*hang) exec sleep 600;;
*kill) %[1]s "$@"; kill -9 $PPID; exit 1;;
esac
exec %[1]s "$@"
`, real, f.dir)
		testenv.Script(t, filepath.Join(f.dir, name), script)
	}
	t.Setenv("PATH", f.dir+":"+os.Getenv("PATH"))
	return f
}

// plan sets what happens at which call, "2 before", and begins to count anew.
func (f failing) plan(t *testing.T, lines ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "plan"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "calls"), []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// calls is how many calls changed something since plan.
func (f failing) calls(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Sscan(string(text), &n) // it is empty for a moment, while a call is counted
	return n
}

// all is every rule of the namespace, by every tool, but for comments with the time and the kernel's counts.
func all(t *testing.T, h *ground.Host) string {
	t.Helper()
	var out strings.Builder
	for _, name := range tools {
		args := []string{"-t", "nat"}
		switch {
		case name == "nft": // which lists the chains of iptables-nft in the order in which they were made
			args = []string{"list", "tables"}
		case !strings.HasSuffix(name, "-save"):
			continue
		case strings.Contains(name, "legacy"):
			args = nil // which would make the table
		}
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		fmt.Fprintf(&out, "--- %s\n", name)
		text := output(t, h, "", name, args...)
		if name == "nft" {
			text = sorted(text)
			for _, family := range []string{"ip", "ip6"} {
				if strings.Contains(text, "table "+family+" evermesh\n") {
					text += output(t, h, "", name, "list", "table", family, "evermesh")
				}
			}
		}
		for line := range strings.Lines(text) {
			if i := strings.Index(line, " ["); strings.HasPrefix(line, ":") && i > 0 {
				line = line[:i] + "\n"
			}
			if !strings.HasPrefix(line, "#") {
				out.WriteString(line)
			}
		}
	}
	return out.String()
}

func output(t *testing.T, h *ground.Host, stdin, name string, args ...string) (text string) {
	t.Helper()
	if err := h.Do(func() error {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		text = string(out)
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return fmt.Errorf("%s: %w: %s", name, err, exit.Stderr)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

// variants are the back ends of this machine, each alone.
func variants(t *testing.T) []intercept.Backend {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // the machine's is root's
	found, err := intercept.Find("auto")
	if err != nil {
		t.Skip("the tool is not on this machine: " + err.Error())
	}
	return found
}

func onGround(t *testing.T) *ground.Ground {
	t.Helper()
	if !ground.Inside() {
		t.Skip("this machine allows no network namespaces with redirection: " + missing())
	}
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// host gives every case a namespace of its own.
func host(t *testing.T, g *ground.Ground, numbers *int) *ground.Host {
	t.Helper()
	*numbers++
	h, err := g.Host(fmt.Sprintf("case%d", *numbers))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// configs are what was there before and what is asked for now.
func parsed(t *testing.T, lines ...string) intercept.Config {
	t.Helper()
	m := map[string]string{
		"APPMESH_START_ENABLED": "1", "APPMESH_IGNORE_UID": "1337", "APPMESH_ENVOY_EGRESS_PORT": "15001", "APPMESH_ENVOY_INGRESS_PORT": "15000",
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	if !userKnown() {
		m["APPMESH_IGNORE_UID"], m["EVERMESH_IGNORE_MARK"] = "", "0x539"
	}
	cfg, err := intercept.Parse(func(name string) string { return m[name] })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// userKnown says whether rules may name uid 1337, which a user namespace with one id lacks.
func userKnown() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && len(strings.Fields(string(text))) == 3 && strings.Fields(string(text))[2] != "1"
}

// others are rules of somebody else, around ours.
func others(t *testing.T, h *ground.Host, b intercept.Backend, where string) {
	t.Helper()
	if b.Name() == "nft" {
		return
	}
	for _, tool := range []string{b.Name() + "-restore", "ip6" + strings.TrimPrefix(b.Name(), "ip") + "-restore"} {
		output(t, h, "*nat\n:OTHER-"+where+" - [0:0]\n-A OTHER-"+where+" -p udp -j ACCEPT\n-A OUTPUT -p udp -m udp --dport 7 -j OTHER-"+where+
			"\n-A PREROUTING -p tcp -m tcp --dport 9 -j OTHER-"+where+"\nCOMMIT\n", tool, "--noflush")
	}
}

// Both families are changed, or none is, whichever call fails and however.
func TestKernelRestores(t *testing.T) {
	g := onGround(t)
	f := newFailing(t)
	number := 0
	full := parsed(t, "APPMESH_APP_PORTS=80,81", "APPMESH_ENABLE_IPV6=1", "APPMESH_EGRESS_IGNORED_IP=10.0.0.0/8,fd00::1", "EVERMESH_DNS_CAPTURE=10.0.0.2,[fd00::2]:53")
	six := parsed(t, "APPMESH_ENABLE_IPV6=1", "APPMESH_EGRESS_IGNORED_PORTS=2049")
	four := parsed(t, "APPMESH_APP_PORTS=90")
	for _, b := range variants(t) {
		for _, c := range []struct {
			name   string
			before *intercept.Config
			do     *intercept.Config // nil removes
		}{
			{"first run", nil, &full},
			{"other rules than before", &six, &full},
			{"the same rules again", &full, &full},
			{"IPv6 no longer wanted", &full, &four},
			{"IPv6 wanted", &four, &six},
			{"removal", &full, nil},
		} {
			t.Run(b.Name()+", "+c.name, func(t *testing.T) {
				h := host(t, g, &number)
				f.plan(t)
				others(t, h, b, "BEFORE")
				if c.before != nil {
					change(t, h, b, c.before)
				}
				others(t, h, b, "BEHIND")
				before := all(t, h)
				f.plan(t)
				calls := 1
				for n := 1; n <= calls; n++ {
					for _, how := range []string{"before", "after"} {
						f.plan(t, fmt.Sprintf("%d %s", n, how))
						err := h.Do(func() error { return install(t.Context(), b, c.do) })
						if err == nil || !strings.Contains(err.Error(), "by the test") {
							t.Fatalf("call %d fails (%s): got %v", n, how, err)
						}
						if n == 1 && how == "before" && b.Name() != "nft" {
							calls = 2 // the other family's
						}
						if diff := cmp.Diff(before, all(t, h)); diff != "" {
							t.Errorf("call %d failed (%s), and what is there is not what was: (-want +got)\n%s", n, how, diff)
						}
					}
				}
				f.plan(t)
				change(t, h, b, c.do)
				if got := f.calls(t); got != calls {
					t.Errorf("%d calls change something, and %d were tried", got, calls)
				}
				t.Run("and when putting back fails too, the error says so", func(t *testing.T) {
					if calls < 2 {
						return
					}
					f.plan(t, "2 before", "3 before")
					change := six
					change.EgressPort = 15101
					err := h.Do(func() error { return install(t.Context(), b, &change) })
					if err == nil || !strings.Contains(err.Error(), "put back what "+b.Name()+" had: ") {
						t.Errorf("got %v", err)
					}
				})
			})
		}
	}
}

func install(ctx context.Context, b intercept.Backend, cfg *intercept.Config) error {
	if cfg == nil {
		return b.Remove(ctx)
	}
	return b.Apply(ctx, *cfg)
}

func change(t *testing.T, h *ground.Host, b intercept.Backend, cfg *intercept.Config) {
	t.Helper()
	if err := h.Do(func() error { return install(t.Context(), b, cfg) }); err != nil {
		t.Fatal(err)
	}
}

// Rules of all back ends at once become those of one, or stay as they are; nothing in between.
func TestKernelOneBackend(t *testing.T) {
	g := onGround(t)
	f := newFailing(t)
	number := 0
	old := parsed(t, "APPMESH_APP_PORTS=80", "APPMESH_ENABLE_IPV6=1")
	cfg := parsed(t, "APPMESH_APP_PORTS=81", "APPMESH_ENABLE_IPV6=1")
	backends := variants(t)
	fresh := func(t *testing.T) *ground.Host {
		t.Helper()
		h := host(t, g, &number)
		f.plan(t)
		for _, b := range backends {
			change(t, h, b, &old)
		}
		f.plan(t)
		return h
	}
	t.Run("rules that two back ends hold are an interrupted run's, and are mended", func(t *testing.T) {
		h := fresh(t)
		if err := h.Do(func() error {
			if len(backends) > 1 {
				if _, err := intercept.Verify(t.Context(), backends, old); err == nil || !strings.Contains(err.Error(), "hold rules") {
					t.Errorf("verified: %v", err)
				}
			}
			done, err := intercept.Install(t.Context(), backends, cfg)
			if err == nil && (done.Backend != backends[0] || done.HalfDone != (len(backends) > 1)) {
				t.Errorf("got %+v", done)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		verified(t, h, backends, cfg)
	})
	last := 1 + 2*(len(backends)-1)
	for n := 1; n <= last; n++ {
		t.Run(fmt.Sprintf("call %d of %d fails, once", n, last), func(t *testing.T) {
			h := fresh(t)
			f.plan(t, fmt.Sprintf("%d before", n))
			if err := h.Do(func() error { _, err := intercept.Install(t.Context(), backends, cfg); return err }); err != nil && len(backends) > 1 {
				t.Fatal(err) // the next back end is tried
			}
			if len(backends) > 1 {
				verified(t, h, backends, cfg)
			}
		})
		t.Run(fmt.Sprintf("removal, call %d of %d fails", n, last), func(t *testing.T) {
			h := fresh(t)
			before := all(t, h)
			f.plan(t, fmt.Sprintf("%d after", n))
			if err := h.Do(func() error { _, err := intercept.Uninstall(t.Context(), backends); return err }); err == nil {
				t.Error("no error")
			}
			if got := all(t, h); sorted(got) != sorted(before) { // tables of nft that are made again come last
				t.Errorf("(-want +got)\n%s", cmp.Diff(before, got))
			}
			f.plan(t)
			if err := h.Do(func() error { _, err := intercept.Uninstall(t.Context(), backends); return err }); err != nil {
				t.Error(err)
			}
			if text := all(t, h); strings.Contains(text, "APPMESH_") || strings.Contains(text, "evermesh") {
				t.Errorf("left:\n%s", text)
			}
		})
	}
}

// sorted are the lines in one order.
func sorted(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// verified checks that exactly the rules of cfg are there.
func verified(t *testing.T, h *ground.Host, backends []intercept.Backend, cfg intercept.Config) {
	t.Helper()
	if err := h.Do(func() error {
		_, err := intercept.Verify(t.Context(), backends, cfg)
		return err
	}); err != nil {
		t.Errorf("%v\n%s", err, all(t, h))
	}
}

// installs is the variable that makes this test program an installation of what its value names, to be killed.
const installs = "INTERCEPT_TEST_INSTALL"

// killed is the program that TestKernelKilled kills.
func killed(backend string) error {
	b, err := intercept.Find(backend)
	if err != nil {
		return err
	}
	cfg := intercept.Config{Enabled: true, IPv6: true, EgressPort: 15001, Ignored: []intercept.Owner{{Kind: intercept.OwnerMark, ID: 7}}}
	return b[0].Apply(context.Background(), cfg)
}

// Whoever is killed between the families leaves a half, which the next run mends and removal removes.
func TestKernelKilled(t *testing.T) {
	g := onGround(t)
	f := newFailing(t)
	number := 0
	self, err := g.Tool("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	cfg := parsed(t, "APPMESH_APP_PORTS=80", "APPMESH_ENABLE_IPV6=1")
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) {
			for n := 1; n <= 2; n++ {
				h := host(t, g, &number)
				f.plan(t, fmt.Sprintf("%d kill", n))
				_, err := h.Run(t.Context(), ground.Command{Name: "installs", Path: self, Env: append(os.Environ(), installs+"="+b.Name())})
				if want := n == 1 || b.Name() != "nft"; (err != nil) != want {
					t.Errorf("killed: %v, want %t", err, want)
				}
				f.plan(t)
				half := all(t, h)
				if !strings.Contains(half, "APPMESH_EGRESS") {
					t.Fatalf("nothing was installed:\n%s", half)
				}
				change(t, h, b, &cfg)
				verified(t, h, []intercept.Backend{b}, cfg)
				change(t, h, b, nil)
				if text := all(t, h); strings.Contains(text, "APPMESH_") || strings.Contains(text, "evermesh") {
					t.Errorf("left:\n%s", text)
				}
			}
		})
	}
}

// Whoever is interrupted while a tool works puts back what was there.
func TestKernelInterrupted(t *testing.T) {
	g := onGround(t)
	f := newFailing(t)
	number := 0
	old, cfg := parsed(t, "APPMESH_ENABLE_IPV6=1", "APPMESH_APP_PORTS=90"), parsed(t, "APPMESH_APP_PORTS=80", "APPMESH_ENABLE_IPV6=1")
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) {
			h := host(t, g, &number)
			f.plan(t)
			change(t, h, b, &old)
			before := all(t, h)
			last := 2
			if b.Name() == "nft" {
				last = 1
			}
			f.plan(t, fmt.Sprintf("%d hang", last))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- h.Do(func() error { return b.Apply(ctx, cfg) }) }()
			testenv.Eventually(t, "the tool hangs", func() bool { return f.calls(t) == last })
			cancel()
			if err := <-ended; err == nil {
				t.Error("no error")
			}
			if diff := cmp.Diff(before, all(t, h)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Rules of others in chains of our names are nobody's to remove.
func TestKernelForeign(t *testing.T) {
	g := onGround(t)
	number := 0
	cfg := parsed(t, "APPMESH_APP_PORTS=80")
	for _, b := range variants(t) {
		rules := map[string]string{
			"a rule in our chain":           "*nat\n:APPMESH_EGRESS - [0:0]\n-A APPMESH_EGRESS -p tcp -m tcp --dport 3306 -j ACCEPT\nCOMMIT\n",
			"a jump to our chain":           "*nat\n:APPMESH_INGRESS - [0:0]\n:MINE - [0:0]\n-A MINE -p tcp -j APPMESH_INGRESS\nCOMMIT\n",
			"a way to our chain, by --goto": "*nat\n:APPMESH_EGRESS - [0:0]\n-A OUTPUT -p tcp -g APPMESH_EGRESS\nCOMMIT\n",
		}
		tool, args := b.Name()+"-restore", []string{"--noflush"}
		if b.Name() == "nft" {
			rules = map[string]string{
				"a chain in our table": "table ip evermesh {\n\tchain MINE {\n\t}\n}\n",
				"a set in our table":   "table ip6 evermesh {\n\tset mine {\n\t\ttype inet_service\n\t}\n}\n",
			}
			tool, args = "nft", []string{"-f", "-"}
		}
		for name, text := range rules {
			t.Run(b.Name()+", "+name, func(t *testing.T) {
				h := host(t, g, &number)
				output(t, h, text, tool, args...)
				before := all(t, h)
				for what, do := range map[string]func() error{
					"apply":  func() error { return b.Apply(t.Context(), cfg) },
					"remove": func() error { return b.Remove(t.Context()) },
					"install": func() error {
						_, err := intercept.Install(t.Context(), variants(t), cfg)
						return err
					},
				} {
					err := h.Do(do)
					if foreign, ok := errors.AsType[*intercept.ForeignError](err); !ok || foreign.Tool != b.Name() {
						t.Errorf("%s: got %v", what, err)
					}
				}
				if diff := cmp.Diff(before, all(t, h)); diff != "" {
					t.Errorf("changed: (-want +got)\n%s", diff)
				}
			})
		}
		if b.Name() == "nft" {
			continue
		}
		t.Run("ICPT-013 ICPT-014 "+b.Name()+", what App Mesh's own route manager left is taken over", func(t *testing.T) {
			h := host(t, g, &number)
			output(t, h, routeManager, tool, args...)
			change(t, h, b, &cfg)
			verified(t, h, []intercept.Backend{b}, cfg)
			output(t, h, routeManager, tool, args...)
			change(t, h, b, nil)
			if text := all(t, h); strings.Contains(text, "APPMESH_") {
				t.Errorf("left:\n%s", text)
			}
		})
	}
}

// routeManager is what the networking script of the user guide installs.
const routeManager = `*nat
:APPMESH_INGRESS - [0:0]
:APPMESH_EGRESS - [0:0]
-A APPMESH_EGRESS -m mark --mark 0x3 -j RETURN
-A APPMESH_EGRESS -p tcp -m multiport --dports 22 -j RETURN
-A APPMESH_EGRESS -d 169.254.169.254/32 -p tcp -j RETURN
-A APPMESH_EGRESS -p tcp -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-A APPMESH_INGRESS -p tcp -m multiport --dports 80 -j REDIRECT --to-ports 15000
-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
COMMIT
`

// A hundred runs leave what one leaves, which is nothing.
func TestKernelHundredRuns(t *testing.T) {
	g := onGround(t)
	number := 0
	cfg := parsed(t, "APPMESH_APP_PORTS=80,81:90", "APPMESH_ENABLE_IPV6=1", "EVERMESH_DNS_CAPTURE=10.0.0.2,[fd00::2]:53")
	for _, b := range variants(t) {
		h := host(t, g, &number)
		t.Run(b.Name(), func(t *testing.T) {
			t.Parallel()
			change(t, h, b, &cfg)
			one := all(t, h)
			change(t, h, b, nil)
			none := all(t, h) // iptables leaves the built-in chains, empty
			if strings.Contains(none, "-A ") || strings.Contains(none, "APPMESH_") || strings.Contains(none, "EVERMESH_") || strings.Contains(none, "evermesh") {
				t.Fatalf("left:\n%s", none)
			}
			change(t, h, b, &cfg)
			change(t, h, b, &cfg)
			if diff := cmp.Diff(one, all(t, h)); diff != "" {
				t.Errorf("two runs are not one: (-want +got)\n%s", diff)
			}
			for range 100 {
				change(t, h, b, &cfg)
				change(t, h, b, nil)
			}
			if diff := cmp.Diff(none, all(t, h)); diff != "" {
				t.Errorf("left: (-want +got)\n%s", diff)
			}
		})
	}
}

// Runs at the same time, in one namespace, wait for each other.
func TestKernelAtOnce(t *testing.T) {
	g := onGround(t)
	number := 0
	cfg := parsed(t, "APPMESH_APP_PORTS=80", "APPMESH_ENABLE_IPV6=1")
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) {
			h := host(t, g, &number)
			errs := make(chan error)
			for range 8 {
				go func() { errs <- h.Do(func() error { return b.Apply(t.Context(), cfg) }) }()
			}
			for range 8 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			verified(t, h, []intercept.Backend{b}, cfg)
		})
	}
}
