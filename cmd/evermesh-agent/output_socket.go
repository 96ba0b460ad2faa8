package main

import (
	"io"
	"os"
)

// passOnSockets gives Envoy a pipe for each standard stream that is a socket, as systemd's are: Envoy opens /dev/stdout by
// its name, for access logs and for its outlier log without being told to, and a socket cannot be opened. A stream that
// no pipe can be made for stays as it is.
func (o output) passOnSockets() output {
	for _, stream := range []**os.File{&o.stdout, &o.stderr} {
		if info, err := (*stream).Stat(); err != nil || info.Mode()&os.ModeSocket == 0 {
			continue
		}
		p, err := passOn(*stream)
		if err != nil {
			o.log.Warn("cannot make a pipe for what Envoy writes: it cannot open /dev/stdout", "err", err)
			continue
		}
		*stream = p.in
		o.passed = append(o.passed, p)
	}
	return o
}

// passedOn is a pipe whose content is copied to a stream.
type passedOn struct {
	in   *os.File
	done chan struct{}
}

func passOn(to *os.File) (*passedOn, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &passedOn{in, make(chan struct{})}
	go func() {
		defer close(p.done)
		// A reader that has gone must not end Envoy, nor have it wait: the rest is read and left.
		if _, err := io.Copy(to, out); err != nil {
			_, _ = io.Copy(io.Discard, out)
		}
		_ = out.Close()
	}()
	return p, nil
}

// close waits for what was written, when nobody else has the pipe any more.
func (p *passedOn) close() {
	_ = p.in.Close()
	<-p.done
}
