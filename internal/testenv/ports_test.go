package testenv

import (
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// Many who ask at once are given ports of their own, all free, none of those that
// outgoing connections have.
func TestPortsAreGivenOnce(t *testing.T) {
	var mu sync.Mutex
	var given []int
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			ports, release, err := ReservePorts(5)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(release)
			mu.Lock()
			defer mu.Unlock()
			given = append(given, ports...)
		})
	}
	asking.Wait()
	slices.Sort(given)
	if once := slices.Compact(slices.Clone(given)); len(once) != 100 {
		t.Errorf("%d of 100 are given once: %v", len(once), given)
	}
	for _, port := range given {
		if port >= 32768 {
			t.Errorf("%d may be an outgoing connection's", port)
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			t.Errorf("not free: %v", err)
			continue
		}
		l.Close()
	}
}

// What is released may be given again; what somebody listens on is not free.
func TestPortsThatAreTaken(t *testing.T) {
	ports, release, err := ReservePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/port"
	lock, err := reserve(file)
	if err != nil || lock == nil {
		t.Fatalf("got %v %v", lock, err)
	}
	if second, err := reserve(file); err != nil || second != nil {
		t.Errorf("reserved twice: %v %v", second, err)
	}
	lock.Close()
	if again, err := reserve(file); err != nil || again == nil {
		t.Errorf("not given again: %v", err)
	} else {
		again.Close()
	}
	release()
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, ":"+strconv.Itoa(ports[0]))
		if err != nil {
			continue // a machine without that family
		}
		if free(ports[0]) {
			t.Errorf("%s: free, and somebody listens", network)
		}
		l.Close()
	}
	p, err := net.ListenPacket("udp4", "127.0.0.1:"+strconv.Itoa(ports[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if free(ports[0]) {
		t.Error("udp: free, and somebody listens")
	}
}
