// Package man gives a program's command line the command man, which
// writes manual pages of all its commands: what --help says, as packages of
// distributions want it. Command is all there is.
package man

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// Command makes the command. source says what the pages belong to, such as
// "Evermesh v1.0".
func Command(source string) *cobra.Command {
	c := &cobra.Command{
		Use:   "man",
		Short: "Write the manual pages of all commands, one file each",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := c.Flags().GetString("out")
			if err != nil {
				return err
			}
			return write(c.Root(), dir, source)
		},
	}
	c.Flags().String("out", "man", "`directory` for the pages, such as evermesh-rollout.1")
	return c
}

func write(root *cobra.Command, dir, source string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	prepare(root)
	header := doc.GenManHeader{Section: "1", Source: source, Manual: "Evermesh", Date: built()}
	if err := doc.GenManTree(root, &header, dir); err != nil {
		return fmt.Errorf("write manual pages to %s: %w", filepath.Clean(dir), err)
	}
	return nil
}

// prepare makes help texts ready for the pages, which are made by way of
// Markdown: what is indented there stays as it is only with four spaces more.
func prepare(c *cobra.Command) {
	c.DisableAutoGenTag = true
	if home, err := os.UserHomeDir(); err == nil {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if rest, mine := strings.CutPrefix(f.DefValue, home+"/"); mine {
				f.DefValue = "~/" + rest // of whoever reads the page
			}
		})
	}
	lines := strings.Split(c.Long, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "  ") {
			lines[i] = "    " + line
		}
	}
	c.Long = strings.Join(lines, "\n")
	for _, sub := range c.Commands() {
		prepare(sub)
	}
}

// built is the time of the commit that the program was built from, so that a
// build makes the same pages again; nil when it does not say.
func built() *time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return &t
			}
		}
	}
	return nil
}
