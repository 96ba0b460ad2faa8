// Command house keeps the rules of the repository that need a run of the tests:
// `house test` runs them, keeps their results and refuses a skip that nobody
// explained; `house requirements` says which lines of docs/requirements.md those
// results show; `house soak` runs what takes long. The Makefile calls all three.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

const usage = "usage: house test|requirements|soak [flags]"

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	verbs := map[string]func([]string, io.Writer) error{
		"test": testVerb, "requirements": requirementsVerb, "soak": soakVerb,
	}
	verb, ok := verbs[args[0]]
	if !ok {
		fmt.Fprintln(stderr, usage)
		return 2
	}
	if err := verb(args[1:], stdout); err != nil {
		fmt.Fprintf(stderr, "house %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// stages collects the commands of -stage, in order.
type stages []string

func (s *stages) String() string { return strings.Join(*s, "; ") }

func (s *stages) Set(command string) error {
	*s = append(*s, command)
	return nil
}

func testVerb(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	out := flags.String("out", "build/test.json", "file for the results")
	skips := flags.String("skips", "docs/skips.md", "file that explains the skips")
	var commands stages
	flags.Var(&commands, "stage", "a `go test -json` command; may be repeated")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listed, err := readSkips(*skips)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	results, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer results.Close()
	started := time.Now()
	r := newReport(stdout)
	for _, command := range commands {
		if err := runStage(command, results, r); err != nil {
			return err
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	return r.close(listed, time.Since(started))
}

func requirementsVerb(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("requirements", flag.ContinueOnError)
	results := flags.String("results", "build/test.json", "results of `make test`")
	list := flags.String("list", "docs/requirements.md", "the requirements")
	verbose := flags.Bool("v", false, "list what is missing, and why")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*list)
	if err != nil {
		return err
	}
	lines, err := parseRequirements(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", *list, err)
	}
	f, err := os.Open(*results)
	if err != nil {
		return fmt.Errorf("no results to read: run `make test` first (%w)", err)
	}
	defer f.Close()
	tests, err := readResults(f)
	if err != nil {
		return fmt.Errorf("%s: %w", *results, err)
	}
	if info, err := f.Stat(); err == nil {
		fmt.Fprintf(stdout, "From %s of %s: %d tests.\n\n", *results, info.ModTime().Format(time.DateTime), len(tests))
	}
	c := count(lines, tests)
	c.print(stdout, *verbose)
	if len(c.faults) > 0 {
		return fmt.Errorf("%d test names are wrong", len(c.faults))
	}
	return nil
}
