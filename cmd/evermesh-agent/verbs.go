package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// verb is a word of the command line.
type verb struct {
	name    string
	summary string
	help    string // all of it, as --help prints it
	run     func(ctx context.Context, args []string, std streams) error
}

// verbs are in the order in which help names them.
func verbs() []verb {
	return []verb{
		{"intercept", "redirect the workload's traffic into Envoy", interceptHelp, func(ctx context.Context, args []string, std streams) error {
			return intercepting(ctx, args, os.Getenv, os.Environ(), std.in, std.out)
		}},
		{"hosts", "print where services are called without interception", hostsHelp, hosting},
		{"wait", "wait until Envoy is ready, then become a command", waitHelp, waiting},
		{"status", "print how a running agent and its Envoy are", statusHelp, asking("status")},
		{"preflight", "try the way to the control plane, step by step", preflightHelp, preflight},
		{"drain", "have a running agent's Envoy drain what arrives", drainHelp, asking("drain")},
		{"quit", "have a running agent drain and end", quitHelp, asking("quit")},
		{"completion", "print a script that completes this command line", completionHelp, completing},
		{"man", "write the manual pages", manHelp, writingPages},
		{"version", "print the version", versionHelp, func(_ context.Context, args []string, std streams) error {
			if err := noArguments("version", args); err != nil {
				return err
			}
			return say(std.out, "evermesh-agent "+versionText()+"\n")
		}},
		{"help", "print this, or the help of a command", helpHelp, helping},
	}
}

const versionHelp = `evermesh-agent version prints the version, and the release of Go that built it.
`

const helpHelp = `evermesh-agent help [COMMAND] prints what there is, or the help of a command.
`

func helping(_ context.Context, args []string, std streams) error {
	if len(args) > 1 {
		return usage("help", fmt.Errorf("takes one command at most, but got %q", args[1]))
	}
	if len(args) == 0 {
		return say(std.out, helpText)
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			return say(std.out, v.help)
		}
	}
	return unknown(args[0])
}

// usage is wrong use of a verb.
func usage(verb string, err error) error {
	return &exitError{exitUsage, fmt.Sprintf("%s: %v; see evermesh-agent %s --help", verb, err, verb)}
}

func noArguments(verb string, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(verb, fmt.Errorf("takes no arguments, but got %q", args[0]))
}

// parse reads the flags of a verb.
func parse(verb string, flags *flag.FlagSet, args []string) error {
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil && !errors.Is(err, flag.ErrHelp) {
		return usage(verb, err)
	}
	return nil
}

// unknown is a word that is no verb, with the one that was meant, if that can be told.
func unknown(word string) error {
	meant := ""
	for _, v := range verbs() {
		if near(word, v.name) {
			meant = fmt.Sprintf(", did you mean %q?", v.name)
			break
		}
	}
	return &exitError{exitUsage, fmt.Sprintf("%q is neither a command nor an argument for Envoy%s; see evermesh-agent --help", word, meant)}
}

// near says that two words differ by one letter more, less, other or exchanged with the next, or that one begins the
// other.
func near(got, want string) bool {
	got = strings.ToLower(got)
	if len(got) >= 3 && strings.HasPrefix(want, got) {
		return true
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	a, b := got[i:], want[i:]
	switch len(a) - len(b) {
	case 0:
		return len(a) == 0 || a[1:] == b[1:] || len(a) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]
	case 1:
		return a[1:] == b
	case -1:
		return a == b[1:]
	}
	return false
}
