//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// The request of the load and its answer. Both ends know how long they are and parse next to nothing, so that what the
// proxies cost is most of what there is.
const (
	loadHost   = "colorapp.local"
	loadAsk    = "GET / HTTP/1.1\r\nHost: " + loadHost + "\r\n\r\n"
	loadAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
)

// loadConfig is what the process of the load is told.
type loadConfig struct {
	Addr  string
	Conns int // each asks again as soon as it is answered
	Warm  time.Duration
	Time  time.Duration // that counts
}

// playLoad asks for as long as it is told and prints how many answers came in the time that counts. Any other answer
// than the expected one is an error.
func playLoad(config string) error {
	var c loadConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	from := time.Now().Add(c.Warm)
	to := from.Add(c.Time)
	counts := make([]int, c.Conns)
	group, ctx := errgroup.WithContext(context.Background())
	for i := range c.Conns {
		group.Go(func() (err error) {
			counts[i], err = ask(ctx, c.Addr, from, to)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	_, err := fmt.Println(sum)
	return err
}

// ask is one connection; it counts what is answered between the two times.
func ask(ctx context.Context, addr string, from, to time.Time) (n int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(to.Add(10 * time.Second)); err != nil {
		return 0, err
	}
	r := bufio.NewReader(conn)
	for ctx.Err() == nil {
		if _, err := io.WriteString(conn, loadAsk); err != nil {
			return n, err
		}
		if err := readAnswer(r); err != nil {
			return n, err
		}
		switch now := time.Now(); {
		case now.After(to):
			return n, nil
		case now.After(from):
			n++
		}
	}
	return n, ctx.Err()
}

// readAnswer reads one answer.
func readAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("answered %q", line)
	}
	if err := skipHeader(r); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if _, err := r.Discard(len("ok")); err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	return nil
}

func skipHeader(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == len("\r\n") {
			return nil
		}
	}
}

// playServer answers everything that comes to the address with the one answer. Its requests have no body.
func playServer(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		serving.Go(func() {
			defer conn.Close()
			for r := bufio.NewReader(conn); skipHeader(r) == nil; {
				if _, err := io.WriteString(conn, loadAnswer); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						fmt.Fprintln(os.Stderr, err)
					}
					return
				}
			}
		})
	}
}
