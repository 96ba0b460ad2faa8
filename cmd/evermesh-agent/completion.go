package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const completionHelp = `evermesh-agent completion SHELL prints a script that completes this command line. SHELL is bash, zsh or fish.

  bash   evermesh-agent completion bash > /etc/bash_completion.d/evermesh-agent
  zsh    evermesh-agent completion zsh > "${fpath[1]}/_evermesh-agent"
  fish   evermesh-agent completion fish > ~/.config/fish/completions/evermesh-agent.fish
`

// completing prints a script. What it completes is what the help texts name: verbs and their flags.
func completing(_ context.Context, args []string, std streams) error {
	if len(args) != 1 {
		return usage("completion", fmt.Errorf("takes one shell: bash, zsh or fish"))
	}
	var b strings.Builder
	switch args[0] {
	case "bash":
		b.WriteString("_evermesh_agent() {\n  local word=${COMP_WORDS[COMP_CWORD]} offer\n  case ${COMP_WORDS[1]} in\n")
		for _, v := range verbs() {
			fmt.Fprintf(&b, "    %s) offer=%q ;;\n", v.name, strings.Join(offers(v), " "))
		}
		fmt.Fprintf(&b, "  esac\n  if [ \"$COMP_CWORD\" = 1 ]; then offer=%q; fi\n", strings.Join(append(names(), flagsOf(helpText)...), " "))
		b.WriteString("  COMPREPLY=($(compgen -W \"$offer\" -- \"$word\"))\n}\ncomplete -o default -F _evermesh_agent evermesh-agent\n")
	case "zsh":
		b.WriteString("#compdef evermesh-agent\nif (( CURRENT == 2 )); then\n  local -a offer=(\n")
		for _, v := range verbs() {
			fmt.Fprintf(&b, "    '%s:%s'\n", v.name, strings.ReplaceAll(v.summary, "'", `'\''`))
		}
		fmt.Fprintf(&b, "  )\n  _describe command offer\n  compadd -- %s\n  return\nfi\ncase $words[2] in\n", strings.Join(flagsOf(helpText), " "))
		for _, v := range verbs() {
			if o := offers(v); len(o) > 0 {
				fmt.Fprintf(&b, "  %s) compadd -- %s ;;\n", v.name, strings.Join(o, " "))
			}
		}
		b.WriteString("esac\n_files\n")
	case "fish":
		for _, v := range verbs() {
			fmt.Fprintf(&b, "complete -c evermesh-agent -n __fish_use_subcommand -a %s -d '%s'\n", v.name, strings.ReplaceAll(v.summary, "'", `\'`))
			for _, o := range offers(v) {
				fmt.Fprintf(&b, "complete -c evermesh-agent -n '__fish_seen_subcommand_from %s' -a '%s'\n", v.name, o)
			}
		}
	default:
		return usage("completion", fmt.Errorf("%q is none of bash, zsh and fish", args[0]))
	}
	return say(std.out, b.String())
}

func names() (out []string) {
	for _, v := range verbs() {
		out = append(out, v.name)
	}
	return out
}

// offers is what may follow a verb.
func offers(v verb) []string {
	switch v.name {
	case "completion":
		return []string{"bash", "zsh", "fish"}
	case "help":
		return names()
	}
	return flagsOf(v.help)
}

// flagLine is a line of help that begins with a flag.
var flagLine = regexp.MustCompile(`(?m)^  (--?[a-zA-Z][a-zA-Z-]*)`)

func flagsOf(help string) (out []string) {
	for _, m := range flagLine.FindAllStringSubmatch(help, -1) {
		if !slices.Contains(out, m[1]) {
			out = append(out, m[1])
		}
	}
	return out
}

const manHelp = `evermesh-agent man writes the manual pages, one file each: what --help says.

  --out DIRECTORY   where to (man)
`

func writingPages(_ context.Context, args []string, _ streams) error {
	flags := flag.NewFlagSet("man", flag.ContinueOnError)
	dir := flags.String("out", "man", "")
	if err := parse("man", flags, args); err != nil {
		return err
	}
	if err := noArguments("man", flags.Args()); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	pages := map[string]string{"evermesh-agent": page("evermesh-agent", "run Envoy beside a workload", helpText)}
	for _, v := range verbs() {
		name := "evermesh-agent-" + v.name
		pages[name] = page(name, v.summary, v.help)
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(*dir, name+".1"), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write manual pages: %w", err)
		}
	}
	return nil
}

// page is a help text as a manual page, with lines as they are.
func page(name, summary, help string) string {
	quote := strings.NewReplacer(`\`, `\e`, "-", `\-`)
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q 1 \"\" \"Evermesh %s\" \"Evermesh\"\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n", strings.ToUpper(name), version, quote.Replace(name), quote.Replace(summary))
	for line := range strings.Lines(help) {
		if line = quote.Replace(line); strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		b.WriteString(line)
	}
	b.WriteString(".fi\n")
	return b.String()
}
