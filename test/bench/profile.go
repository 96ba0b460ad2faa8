//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profiled runs fn and, where -cpuprofile gave a folder, keeps the processor profile of a program for as long as it
// runs: as ROW.WHO.pprof, from the program whose /debug/pprof is under the URL.
func (r *rig) profiled(ctx context.Context, row, who, base string, fn func() error) (err error) {
	if r.profiles == "" {
		return fn()
	}
	end, err := startProfile(ctx, base)
	if err != nil {
		return fmt.Errorf("profile %s: %w", who, err)
	}
	err = fn()
	text, profileErr := end()
	if profileErr == nil {
		profileErr = os.WriteFile(filepath.Join(r.profiles, row+"."+who+".pprof"), text, 0o600)
	}
	if profileErr != nil {
		err = errors.Join(err, fmt.Errorf("profile %s: %w", who, profileErr))
	}
	return err
}

// startProfile asks for a profile of an hour; end takes what there is by then. net/http/pprof ends a profile when its
// client closes the connection, and this one closes its half only, so that the profile still arrives.
func startProfile(ctx context.Context, base string) (end func() ([]byte, error), err error) {
	addr := strings.TrimPrefix(base, "http://")
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn, ok := raw.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not TCP", addr), raw.Close())
	}
	if _, err := fmt.Fprintf(conn, "GET /debug/pprof/profile?seconds=3600 HTTP/1.1\r\nHost: %s\r\n\r\n", addr); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() ([]byte, error) {
		defer func() { _ = conn.Close() }() // it was only read
		if err := errors.Join(conn.CloseWrite(), conn.SetReadDeadline(time.Now().Add(patience))); err != nil {
			return nil, err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %.200s", resp.Status, text)
		}
		return text, err
	}, nil
}
