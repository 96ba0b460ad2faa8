package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"
)

// Values of -o.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// outputFlag adds -o for commands that print a table.
func outputFlag(c *cobra.Command) { formFlag(c, "`form` of the output", outputTable, outputJSON) }

// formFlag adds -o with its choices, the first of which is the default; its
// value is checked before the command runs.
func formFlag(c *cobra.Command, usage string, forms ...string) {
	choices := strings.Join(forms, " or ")
	c.Flags().StringP("output", "o", forms[0], usage+": "+choices)
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if o, _ := c.Flags().GetString("output"); !slices.Contains(forms, o) {
			return usagef("-o %q is not a form of output: want %s", o, choices)
		}
		return nil
	}
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
}

func wantsJSON(c *cobra.Command) bool {
	o, _ := c.Flags().GetString("output")
	return o == outputJSON
}

// printJSON writes v indented, and without HTML escapes, which scripts and
// people would only stumble over.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// isTerminal says whether a person reads what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// widthOf is the number of columns of a terminal; 0 when it does not say.
func widthOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(f.Fd())
	if err != nil {
		return 0
	}
	return width
}

// printTable writes rows under their headers: with lines and weight on a
// terminal, in bare columns elsewhere, so that awk and cut can read them.
func printTable(w io.Writer, headers []string, rows [][]string) error {
	if isTerminal(w) {
		cell := lipgloss.NewStyle().Padding(0, 1)
		t := table.New().Headers(headers...).Rows(rows...).Border(lipgloss.RoundedBorder()).
			StyleFunc(func(row, _ int) lipgloss.Style {
				if row == table.HeaderRow {
					return cell.Bold(true)
				}
				return cell
			})
		if most := widthOf(w); most > 0 && lipgloss.Width(t.Render()) > most {
			t.Width(most) // cells wrap
		}
		_, err := lipgloss.Fprintln(w, t.Render())
		return err
	}
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{headers}, rows...) {
		if _, err := fmt.Fprintln(columns, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return columns.Flush()
}

// count says how many there are of a thing: 1 proxy, 2 proxies.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
