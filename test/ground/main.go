//go:build linux

package ground

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Main runs the tests of a program on a ground of their own, and returns the exit code: TestMain is
// os.Exit(ground.Main(…)). begin sets the ground up; end, which may be nil, is called before the ground closes, also when
// begin failed. When the tests fail the ground's directory stays, with the logs of all programs, and so it does when end
// fails. Where the machine allows no ground, missing says why, and the tests run without one, to be skipped.
func Main(m interface{ Run() int }, missing **Missing, begin func(*Ground) error, end func() error) int {
	exit, inside, err := Enter(context.Background())
	switch {
	case inside:
		return runInside(m, begin, end)
	case errors.As(err, missing):
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return exit
}

func runInside(m interface{ Run() int }, begin func(*Ground) error, end func() error) (code int) {
	g, err := New()
	if err == nil {
		defer func() {
			var ended error
			if end != nil {
				ended = end()
			}
			if g.Keep = code != 0 || ended != nil; g.Keep {
				fmt.Println("the logs of all programs are in", g.Dir())
			}
			if err := errors.Join(ended, g.Close()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = max(code, 1)
			}
		}()
		err = begin(g)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
