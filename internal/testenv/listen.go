package testenv

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// Listen listens where another listener of this process may have been until now. A
// child that is forked meanwhile has that one's socket until it runs its program, and
// the address is in use for as long after it was closed.
func Listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	Eventually(t, address+" is nobody's", func() bool {
		var err error
		l, err = net.Listen(network, address)
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
		return err == nil
	})
	return l
}
