package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
)

// socketName is the file in the data directory through which other processes
// of the same user reach the embedded etcd: the verbs of evermeshd.
const socketName = "etcd.sock"

// socketDir begins the names of the directories in which sockets are bound.
const socketDir = ".socket-"

// sweepSockets removes those that killed processes left behind. The data
// directory is locked: no other process binds in one now.
func (s *Server) sweepSockets() error {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), socketDir) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

// within returns a path for a file of dir that fits into a socket's address,
// which has 107 bytes, however long dir is. It is good until done is called.
func within(dir, name string) (path string, done func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())), name), func() { _ = f.Close() }, nil
}

// listen opens the socket. It has mode 0600 from the first moment on: it is
// bound in a directory of its own and moved from there, over one that a killed
// process left behind.
func (s *Server) listen() error {
	if err := s.sweepSockets(); err != nil {
		s.log.Warn("what a killed process left behind was not removed", "err", err)
	}
	private, err := os.MkdirTemp(s.dir, socketDir+"*") // mode 0700
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer os.RemoveAll(private)
	path, done, err := within(private, socketName)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the path is not its name any more
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = os.Rename(path, filepath.Join(s.dir, socketName))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open socket: %w", err), l.Close())
	}
	s.served = v3rpc.Server(s.etcd.Server, nil, nil)
	s.running.Go(func() {
		if err := s.served.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			s.log.Warn("store is not reachable for other processes any more", "err", err)
		}
	})
	return nil
}

// unlisten closes the socket and what came through it.
func (s *Server) unlisten() {
	if s.served == nil {
		return
	}
	_ = os.Remove(filepath.Join(s.dir, socketName)) // a new start would replace it
	s.served.Stop()
}

// throughSocket is how a client connects to the etcd of the process that has
// the data directory.
func throughSocket(dir string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		path, done, err := within(dir, socketName)
		if err != nil {
			return nil, err
		}
		defer done()
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

// Alone says that nobody else can use what is stored: the etcd is embedded, and
// this Store started it.
func (s *Store) Alone() bool { return s.own }
