package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// event is one line of `go test -json` (see `go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events, in place of Package
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// Statuses of a test that ended.
const (
	passed  = "pass"
	failed  = "fail"
	skipped = "skip"
)

// test is what became of one test or subtest.
type test struct {
	Package, Name string
	Status        string // passed, failed, skipped, or "" when it never ended
	Envoy         string // version of the real Envoy that it ran with, if any
}

// realEnvoy is the line by which a test says that a real Envoy ran for it and
// was driven by it: `t.Logf("real envoy: %s", version)`. Whoever starts the
// Envoy logs it, so that a test which only says so in its name cannot count.
var realEnvoy = regexp.MustCompile(`\breal envoy: (\d+\.\d+\.\d+)`)

// readEvents calls each for every event of the stream. Lines that are no events
// (a tool chain that fails before it knows JSON) come as events of Action "".
func readEvents(r io.Reader, each func(e event, line []byte) error) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				e = event{Output: string(line)}
			}
			if failure := each(e, line); failure != nil {
				return failure
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readResults reads a kept stream into its tests, in the order of their start.
// A subtest inherits the Envoy of the test around it.
func readResults(r io.Reader) ([]*test, error) {
	var order []*test
	byName := map[string]*test{}
	err := readEvents(r, func(e event, line []byte) error {
		if e.Action == "" && strings.TrimSpace(e.Output) != "" {
			return fmt.Errorf("not a result of go test -json: %.80q", line)
		}
		if e.Test == "" {
			return nil
		}
		key := e.Package + "." + e.Test
		t := byName[key]
		if t == nil {
			t = &test{Package: e.Package, Name: e.Test}
			byName[key] = t
			order = append(order, t)
		}
		switch e.Action {
		case passed, failed, skipped:
			t.Status = e.Action
		case "output":
			if m := realEnvoy.FindStringSubmatch(e.Output); m != nil {
				t.Envoy = m[1]
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range order {
		for name := t.Name; t.Envoy == ""; {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			name = name[:i]
			if outer := byName[t.Package+"."+name]; outer != nil {
				t.Envoy = outer.Envoy
			}
		}
	}
	return order, nil
}
