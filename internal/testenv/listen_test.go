package testenv

import (
	"errors"
	"net"
	"testing"
)

// What a child has of a listener that was closed is in the way until the child runs its program, and no longer.
func TestListenWaitsForWhatAChildHas(t *testing.T) {
	address := FreeAddress(t)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File() // the same socket once more, as a child has it
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := net.Listen("tcp", address); err == nil {
		t.Fatal("nothing is in the way: nothing is shown")
	}
	gone := make(chan error, 1)
	go func() { gone <- f.Close() }()
	if err := errors.Join(Listen(t, "tcp", address).Close(), <-gone); err != nil {
		t.Error(err)
	}
}
