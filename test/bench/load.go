//go:build linux

package main

import (
	"bufio"
	"bytes"
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

// loadConfig is what a process of the load is told. Processes take turns, each of many short ones, so that what else
// the machine does meets all alike.
type loadConfig struct {
	Addr  string
	Conns int // each asks again as soon as it is answered
	// Ready is a file that the process makes once it is connected; it begins when there is a file Start, with a time.
	Ready, Start string
	Turn         time.Duration
	Turns        int // of each process, after one that does not count
	Of, Mine     int // processes, and which this one is
}

// turn is which of the process's turns it is, after so much time: 0 for the one that does not count. Between turns, next
// is the time until the next one.
func (c loadConfig) turn(since time.Duration) (n int, next time.Duration) {
	round := time.Duration(c.Of) * c.Turn
	since -= time.Duration(c.Mine) * c.Turn
	switch {
	case since < 0:
		return 0, -since
	case since%round < c.Turn:
		return int(since / round), 0
	}
	return int(since / round), round - since%round
}

// asked is what a process of the load has seen: all answers, and those that count.
type asked struct{ All, Counted int }

// playLoad asks for as long as it is told and prints how many answers came. Any other answer than the expected one is
// an error.
func playLoad(config string) error {
	var c loadConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	conns := make([]net.Conn, c.Conns)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", c.Addr); err != nil {
			return err
		}
		defer conns[i].Close()
		if err := ask(conns[i], bufio.NewReader(conns[i])); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.Ready, nil, 0o600); err != nil {
		return err
	}
	began, err := awaitStart(c.Start)
	if err != nil {
		return err
	}
	counts := make([]asked, c.Conns)
	var group errgroup.Group
	for i, conn := range conns {
		group.Go(func() (err error) {
			counts[i], err = c.askInTurns(conn, began)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	sum := asked{All: c.Conns} // the first ones
	for _, n := range counts {
		sum.All, sum.Counted = sum.All+n.All, sum.Counted+n.Counted
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// awaitStart waits for the file and reads the time in it.
func awaitStart(file string) (time.Time, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for {
		text, err := os.ReadFile(file)
		if err == nil {
			var at time.Time
			return at, at.UnmarshalText(text)
		}
		select {
		case <-tick.C:
		case <-late:
			return time.Time{}, err
		}
	}
}

// askInTurns is one connection.
func (c loadConfig) askInTurns(conn net.Conn, began time.Time) (sum asked, err error) {
	end := began.Add(time.Duration(c.Of*(c.Turns+1)) * c.Turn)
	if err := conn.SetDeadline(end.Add(patience)); err != nil {
		return sum, err
	}
	for r := bufio.NewReader(conn); ; {
		n, next := c.turn(time.Since(began))
		if n > c.Turns || n == c.Turns && next > 0 {
			return sum, nil
		}
		if next > 0 {
			<-time.After(next)
			continue
		}
		if err := ask(conn, r); err != nil {
			return sum, err
		}
		sum.All++
		if n > 0 {
			sum.Counted++
		}
	}
}

// ask sends one request and reads its answer.
func ask(conn net.Conn, r *bufio.Reader) error {
	if _, err := io.WriteString(conn, loadAsk); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
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
