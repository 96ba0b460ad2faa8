package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// part is one of the things that a soak does. run uses at most its time and says
// in one line what it saw; an error is a fault that it found.
type part struct {
	name  string
	share float64 // of the time
	run   func(ctx context.Context, w io.Writer, total time.Duration) (saw string, err error)
}

// soakVerb runs what takes too long for every change: kills and faults of
// control planes under load, fuzzing, properties with many more tries, proxies
// and callers that come and go, and code broken on purpose. All of it together
// takes the minutes that it is given; a table tells what came of it.
func soakVerb(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	minutes := flags.Float64("minutes", 10, "minutes for the whole")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "seed of what has chance in it, to see a run again")
	only := flags.String("only", "", "run these parts alone: names with commas between them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	parts := soakParts(*seed)
	if *only != "" {
		parts = slices.DeleteFunc(parts, func(p part) bool { return !slices.Contains(strings.Split(*only, ","), p.name) })
	}
	fmt.Fprintf(stdout, "soak: %v minutes, seed %d\n", *minutes, *seed)
	return soak(context.Background(), stdout, parts, time.Duration(*minutes*float64(time.Minute)))
}

func soakParts(seed uint64) []part {
	again := strconv.FormatUint(seed, 10)
	return []part{
		{"kills", 0.2, testFor("./test/faults", "^TestKilledUnderWrites$", again)},
		{"histories", 0.15, testFor("./test/faults", "^TestHistoriesWithFaults$", again)},
		{"leaks", 0.15, testFor("./cmd/evermeshd", "^TestNothingLeaks$", "")},
		{"fuzz", 0.2, fuzz},
		{"properties", 0.15, properties},
		{"breakages", 0.15, func(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
			return breakages(ctx, w, total, seed)
		}},
	}
}

// soak runs the parts one after another. What one leaves of its time, or takes
// too much of, is shared by those that follow.
func soak(ctx context.Context, w io.Writer, parts []part, total time.Duration) error {
	end := time.Now().Add(total)
	shares := 0.0
	for _, p := range parts {
		shares += p.share
	}
	var failures error
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\npart\ttime\tfaults\tseen")
	for _, p := range parts {
		budget := time.Duration(float64(time.Until(end)) * p.share / shares)
		shares -= p.share
		fmt.Fprintf(w, "%s: for %s\n", p.name, budget.Round(time.Second))
		// A part that does not keep its time is cut off; that is a fault of the part.
		bounded, cancel := context.WithTimeout(ctx, budget+grace)
		start := time.Now()
		saw, err := p.run(bounded, w, budget)
		cancel()
		faults := "none"
		if err != nil {
			faults = "FOUND"
			failures = errors.Join(failures, fmt.Errorf("%s: %w", p.name, err))
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.name, time.Since(start).Round(time.Second), faults, saw)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return failures
}

// grace is how much longer than its time a part may take to come to an end.
const grace = time.Minute

// testFor is a test that goes on for as long as its flag -for says. Building it
// takes a part of the time.
func testFor(pkg, name, seed string) func(context.Context, io.Writer, time.Duration) (string, error) {
	return func(ctx context.Context, w io.Writer, total time.Duration) (string, error) {
		end := time.Now().Add(total)
		dir, err := os.MkdirTemp("", "evermesh-soak-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		program := filepath.Join(dir, "test")
		if out, err := command(ctx, "go", "test", "-c", "-o", program, pkg).CombinedOutput(); err != nil {
			return "it does not build", fmt.Errorf("%w\n%s", err, out)
		}
		left := max(time.Until(end)-5*time.Second, 5*time.Second).Round(time.Second)
		args := []string{"-test.run", name, "-test.v", "-test.timeout", (left + grace).String(), "-for", left.String()}
		if seed != "" {
			args = append(args, "-seed", seed)
		}
		cmd := command(ctx, program, args...)
		cmd.Dir = pkg
		out, err := cmd.CombinedOutput()
		if err != nil {
			fmt.Fprintf(w, "%s", out)
			return "see above", err
		}
		return told(out), nil
	}
}

var logged = regexp.MustCompile(`(?m)^    \w+_test\.go:\d+: (.+)$`)

// told is the last line that a test logged for its reader.
func told(out []byte) string {
	all := logged.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return "it passed"
	}
	return string(all[len(all)-1][1])
}

// command is a command that ends with its context, together with all that it
// started: go test leaves its test behind.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}
