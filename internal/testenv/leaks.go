package testenv

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// VerifyTestMain runs the tests of a program and ends it; goroutines that are left of
// tests that passed are a failure. It is goleak's, which gives them half a second to
// end, with the [Patience] that a busy machine needs: what leaks stays for longer.
func VerifyTestMain(m goleak.TestingM, options ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := leaks(Patience, options...); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left of tests that passed: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks looks for goroutines until there are none, or for that long.
func leaks(patience time.Duration, options ...goleak.Option) error {
	for end := time.Now().Add(patience); ; {
		err := goleak.Find(options...) // which waits between its looks
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
