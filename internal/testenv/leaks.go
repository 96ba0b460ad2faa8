package testenv

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// VerifyTestMain runs the tests of a program and ends it; goroutines that are left of
// tests that passed are a failure. It is goleak's, which gives them half a second to
// end, with a few more for a busy machine; not with [Patience], in which what nobody
// waits for ends by its own bounds.
func VerifyTestMain(m goleak.TestingM, options ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := leaks(ending, options...); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left of tests that passed: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// ending is how long goroutines may take that somebody has told to end.
const ending = 4 * time.Second

// leaks looks for goroutines until there are none, or for that long.
func leaks(patience time.Duration, options ...goleak.Option) error {
	for end := time.Now().Add(patience); ; {
		err := goleak.Find(options...) // which waits between its looks
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
