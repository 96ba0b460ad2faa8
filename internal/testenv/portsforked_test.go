package testenv

import (
	"net"
	"os/exec"
	"strconv"
	"sync"
	"testing"
)

// A child has copies of all descriptors until it runs its program: one of a port that is looked at would keep the port in
// use for a moment after that.
func TestPortsAreFreeWhileProcessesStart(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("true").Run() // whatever comes of it
				}
			}
		})
	}
	defer func() { close(stop); wg.Wait() }()
	for range 500 {
		ports, release, err := ReservePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		listenOnce(t, ports[0])
		release()
	}
}

func listenOnce(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
