package ads

import (
	"net"
	"syscall"
)

// speaksHTTP1 waits for the first bytes of a connection and says whether they are of
// HTTP/1.1; they stay to be read. A client of HTTP/2 begins with PRI. Connections that
// are no sockets are gRPC's.
func speaksHTTP1(c net.Conn) (bool, error) {
	socket, ok := c.(syscall.Conn)
	if !ok {
		return false, nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false, err
	}
	var first [2]byte
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed = syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK)
			if failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	if err == nil {
		err = failed
	}
	return n > 0 && string(first[:n]) != "PR"[:n], err
}
