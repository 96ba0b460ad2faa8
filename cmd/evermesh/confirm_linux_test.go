package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A person is asked before anything is removed, and only yes is taken.
func TestPruneAsksAPerson(t *testing.T) {
	t.Parallel()
	p := newPlane(t, t.TempDir())
	write := func(name, text string) string {
		file := filepath.Join(p.dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	shop := write("shop.json", `{"meshName": "shop"}`)
	more := write("more.json", `{"meshName": "shop", "virtualNodeName": "web", "spec": {}}`)
	apply := func(ctx context.Context, stdin *os.File, args ...string) (int, string) {
		var out bytes.Buffer
		code := run(ctx, append([]string{"apply", "--data-dir", p.dir}, args...), stdin, &out, &out)
		return code, out.String()
	}
	if code, out := apply(t.Context(), nil, shop, more); code != 0 {
		t.Fatal(out)
	}
	there := func() bool {
		err := p.client(t).Call(t.Context(), "DescribeVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "web"}, nil)
		return err == nil
	}
	for _, c := range []struct {
		answer string
		code   int
		says   string
		gone   bool
	}{
		{"no\n", 1, "the answer was not yes: nothing was written", false},
		{"y\n", 1, "the answer was not yes", false},
		{"\n", 1, "the answer was not yes", false},
		{"\x04", 1, "the answer was not yes", false}, // the end of input
		{"yes\n", 0, "1 unchanged, 1 removed", true},
	} {
		t.Run(fmt.Sprintf("%q", c.answer), func(t *testing.T) {
			tty, typed := keyboard(t)
			typed(c.answer)
			code, out := apply(t.Context(), tty, shop, "--prune")
			if code != c.code || !strings.Contains(out, c.says) || !strings.Contains(out, "to be removed, as no file has it: mesh/shop/virtualNode/web") ||
				!strings.Contains(out, "Remove 1 resource? Only yes is taken for an answer: ") {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, c.code, c.says, out)
			}
			if there() == c.gone {
				t.Errorf("gone: %v, want %v", !there(), c.gone)
			}
		})
	}
	t.Run("who is asked may leave", func(t *testing.T) {
		if code, out := apply(t.Context(), nil, shop, more); code != 0 {
			t.Fatal(out)
		}
		tty, _ := keyboard(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if code, _ := apply(ctx, tty, shop, "--prune"); code != 1 || !there() {
			t.Errorf("exit code %d; still there: %v", code, there())
		}
	})
}

// keyboard is a terminal on which a test types.
func keyboard(t *testing.T) (tty *os.File, typed func(string)) {
	t.Helper()
	master, tty := pseudoTerminal(t, 80)
	t.Cleanup(func() { _ = tty.Close() })
	return tty, func(text string) {
		if _, err := master.WriteString(text); err != nil {
			t.Error(err)
		}
	}
}
