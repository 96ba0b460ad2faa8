//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/internal/testenv"
)

// cluster is an external etcd: processes that can be killed and stopped one by one.
type cluster struct {
	t       testing.TB
	members []*member
}

// member is one etcd process.
type member struct {
	t                testing.TB
	name, dir        string
	client, peer     string // host:port
	way              *link  // to peer, which the other members take
	peers            string
	cmd              *exec.Cmd
	ended            chan struct{}
	stopped, running bool
}

// newCluster starts an etcd of n members and waits until it serves.
func newCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := prepareCluster(t, n)
	for _, m := range c.members {
		m.start()
	}
	c.awaitReady()
	return c
}

// prepareCluster gives the members their addresses and directories.
func prepareCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t}
	var peers []string
	for i := range n {
		m := &member{t: t, name: fmt.Sprintf("etcd%d", i), dir: t.TempDir(), client: testenv.FreeAddress(t), peer: testenv.FreeAddress(t)}
		m.way = newLink(t, m.peer)
		peers = append(peers, m.name+"=http://"+m.way.address)
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.peers = strings.Join(peers, ",")
		t.Cleanup(m.kill)
	}
	return c
}

// endpoints are the URLs of all members.
func (c *cluster) endpoints() []string {
	var out []string
	for _, m := range c.members {
		out = append(out, "http://"+m.client)
	}
	return out
}

func (c *cluster) awaitReady() {
	c.t.Helper()
	until(c.t, "etcd serves", func() bool {
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := m.dial().Get(ctx, "nothing")
			cancel()
			if err != nil {
				return false
			}
		}
		return true
	})
}

// leader is the member that leads, nil when there is none or the cluster does not say.
func (c *cluster) leader() *member {
	for _, m := range c.members {
		if m.stopped || !m.running {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := m.dial().Status(ctx, "http://"+m.client)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return m
		}
	}
	return nil
}

// isolate cuts a member off from the others, both ways. Those who call it are not.
func (c *cluster) isolate(m *member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	status, err := m.dial().Status(ctx, "http://"+m.client)
	if err != nil {
		c.t.Logf("%s is not isolated, as it does not say its id: %v", m.name, err)
		return
	}
	for _, other := range c.members {
		if other == m {
			other.way.sever()
		} else {
			other.way.severFrom(strconv.FormatUint(status.Header.MemberId, 16))
		}
	}
}

// join ends every isolation.
func (c *cluster) join() {
	for _, m := range c.members {
		m.way.mend()
	}
}

// dial makes a client of this member alone, which ends with the test.
func (m *member) dial() *clientv3.Client {
	m.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + m.client}, DialTimeout: time.Second, Logger: zap.NewNop()})
	must(m.t, err)
	m.t.Cleanup(func() { _ = c.Close() }) // etcd may be gone
	return c
}

func (m *member) start() {
	m.t.Helper()
	m.cmd = exec.Command("/proc/self/exe")
	m.cmd.Env = as("etcd", m.name, m.dir, m.client, m.peer, m.way.address, m.peers)
	m.cmd.Stderr = os.Stderr
	must(m.t, m.cmd.Start())
	m.ended, m.running, m.stopped = make(chan struct{}), true, false
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // it is killed
		close(ended)
	}(m.cmd, m.ended)
}

func (m *member) signal(s syscall.Signal) {
	if err := m.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		m.t.Error(err)
	}
	m.stopped = s == syscall.SIGSTOP
}

// kill ends the process by SIGKILL; its data stay.
func (m *member) kill() {
	if m.running {
		m.signal(syscall.SIGKILL)
		<-m.ended
		m.running = false
	}
}

// playEtcd is an etcd with the settings that it has by itself. It ends with the program that started it.
func playEtcd(words []string) error {
	if len(words) != 6 {
		return fmt.Errorf("etcd: want name, directory, addresses for clients and peers, where peers find it, and the peers; got %q", words)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at := func(address string) []url.URL { return []url.URL{{Scheme: "http", Host: address}} }
	c := embed.NewConfig()
	c.Name, c.Dir = words[0], words[1]
	c.ListenClientUrls, c.AdvertiseClientUrls = at(words[2]), at(words[2])
	c.ListenPeerUrls, c.AdvertisePeerUrls = at(words[3]), at(words[4])
	c.InitialCluster = words[5]
	c.LogLevel = "panic"
	c.UnsafeNoFsync = true // the machine does not lose power here, only processes end
	e, err := embed.StartEtcd(c)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer e.Close()
	parent := os.Getppid()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-e.Err():
			return err
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if os.Getppid() != parent {
				return errors.New("etcd: who started it is gone")
			}
		}
	}
}
