//go:build linux

package ground

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/intercept"
)

// probeWait bounds the probe's connections and tools; it takes some 50 ms where all goes well. A machine that is busy for
// longer is taken for one that allows no ground.
const probeWait = 60 * time.Second

// probe lays a ground with one host, redirects that host's connections as for Envoy, and makes two: one must be
// redirected, and one with the mark that stands for Envoy must not. It reads no settings of the kernel, which differ
// by distribution: what works is allowed.
func probe() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeWait)
	defer cancel()
	g, err := New()
	if err != nil {
		return err
	}
	return errors.Join(g.probe(ctx), g.Close())
}

func (g *Ground) probe(ctx context.Context) error {
	h, err := g.Host("probe")
	if err != nil {
		return err
	}
	g.dns.Set("probe.local", g.home.addr)
	if err := h.do(func() error { return redirect(ctx) }); err != nil {
		return step("install a redirection rule", "nft or iptables-restore must be on PATH, and the kernel must have nat and redirect", err)
	}
	const direct, redirected = "direct", "redirected"
	for _, answer := range []struct {
		host *Host
		addr string
		text string
	}{{g.home, ":8080", direct}, {h, ":15001", redirected}} {
		stop, err := answer.host.Greet(answer.addr, answer.text)
		if err != nil {
			return step("listen on a host", "the network namespace must have its loopback and addresses", err)
		}
		defer stop()
	}
	for _, try := range []struct {
		step string
		mark int
		want string
	}{{"redirect a connection", 0, redirected}, {"leave a marked connection alone", envoyMark, direct}} {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return setMark(c, try.mark) }}
		got, err := h.greeting(ctx, dialer)
		if err == nil && got != try.want {
			err = fmt.Errorf("the connection was %s", got)
		}
		if err != nil {
			return step(try.step, "the kernel must redirect what a network namespace sends", err)
		}
	}
	return nil
}

// redirect installs the rules that `evermesh-agent intercept` would, by the first tool that can.
func redirect(ctx context.Context) error {
	tools, err := intercept.Find("auto")
	if err != nil {
		return err
	}
	cfg := intercept.Config{
		Enabled: true, EgressPort: 15001,
		Ignored: []intercept.Owner{{Kind: intercept.OwnerMark, ID: envoyMark}},
	}
	var errs []error
	for _, t := range tools {
		err := t.Apply(ctx, cfg)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func setMark(c syscall.RawConn, mark int) error {
	if mark == 0 {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
	return errors.Join(err, failed)
}

func (h *Host) greeting(ctx context.Context, dialer net.Dialer) (string, error) {
	conn, err := h.dial(ctx, dialer, "tcp", "probe.local:8080")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(conn)
	return string(text), err
}

// Greet listens on the host and tells every connection text, until stop is called; nothing of it is left then.
func (h *Host) Greet(addr, text string) (stop func(), err error) {
	l, err := h.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// Whoever connects notices a greeting that does not arrive.
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}()
	return func() { _ = l.Close(); <-served }, nil
}
