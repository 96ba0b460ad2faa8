package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// gate says whether all is well.
type gate struct {
	command, url string
	every        time.Duration // between two looks, and the longest that one may take
	failures     int           // in a row, that turn back
}

func gateOf(c *cobra.Command) (g gate, err error) {
	f := c.Flags()
	g.command, _ = f.GetString("check")
	g.url, _ = f.GetString("check-url")
	g.every, _ = f.GetDuration("check-every")
	g.failures, _ = f.GetInt("check-failures")
	if g.every <= 0 || g.failures < 1 {
		return g, usagef("--check-every %s, --check-failures %d: want a time such as 5s, and a number of at least 1", g.every, g.failures)
	}
	if u, err := url.Parse(g.url); g.url != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return g, usagef("--check-url %q: want http://… or https://…", g.url)
	}
	return g, nil
}

func (g gate) none() bool { return g.command == "" && g.url == "" }

// ask asks once.
func (g gate) ask(ctx context.Context, arn string, w weights) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.every, fmt.Errorf("no answer within %s", g.every))
	defer cancel()
	if err := g.run(ctx, arn, w); err != nil {
		return err
	}
	return g.get(ctx)
}

// outputShown is how much of what a check printed is told when it failed.
const outputShown = 300

func (g gate) run(ctx context.Context, arn string, w weights) error {
	if g.command == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", g.command)
	cmd.Env = append(os.Environ(), "EVERMESH_ROUTE="+arn, "EVERMESH_WEIGHTS="+w.String())
	cmd.WaitDelay = time.Second // what it left behind may hold the output
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("run %q: %w", g.command, context.Cause(ctx))
	}
	said := strings.TrimSpace(out.String())
	if len(said) > outputShown {
		said = said[len(said)-outputShown:]
	}
	if said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fmt.Errorf("run %q: %w", g.command, err)
}

func (g gate) get(ctx context.Context) error {
	if g.url == "" {
		return nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", g.url, err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("ask %s: %w", g.url, err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 1<<16) // so that the connection may be used again
	if answer.StatusCode/100 != 2 {
		return errors.New("ask " + g.url + ": " + answer.Status)
	}
	return nil
}
