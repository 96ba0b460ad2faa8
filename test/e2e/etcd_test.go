//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// etcdVariable makes this program a member of an etcd cluster: its value is a [member].
const etcdVariable = "EVERMESH_E2E_ETCD"

// member is one of an etcd cluster's servers.
type member struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`
	Client  string `json:"client"` // URL that it serves
	Peer    string `json:"peer"`
	Cluster string `json:"cluster"`
}

// etcd is a cluster of processes, which may be killed and stopped one by one.
type etcd struct {
	members   []member
	processes []*ground.Process
}

// playEtcd is the member that this program was started as, to its end.
func playEtcd() {
	text := os.Getenv(etcdVariable)
	if text == "" {
		return
	}
	var m member
	err := json.Unmarshal([]byte(text), &m)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err = m.run(ctx)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (m member) run(ctx context.Context) error {
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.UnsafeNoFsync = m.Name, m.Dir, "warn", true // a kill loses nothing that the kernel has
	c.TickMs, c.ElectionMs = 100, 3000                                       // a busy machine may let none of them run for a second, which is no loss of a leader
	for _, u := range []struct {
		text string
		to   []*[]url.URL
	}{{m.Client, []*[]url.URL{&c.ListenClientUrls, &c.AdvertiseClientUrls}}, {m.Peer, []*[]url.URL{&c.ListenPeerUrls, &c.AdvertisePeerUrls}}} {
		parsed, err := url.Parse(u.text)
		if err != nil {
			return err
		}
		for _, to := range u.to {
			*to = []url.URL{*parsed}
		}
	}
	c.InitialCluster = m.Cluster
	server, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer server.Close()
	select {
	case err := <-server.Err():
		return err
	case <-ctx.Done():
		return nil
	}
}

// startEtcd runs a cluster on loopback of the home host; clients from port on, peers after them.
func startEtcd(t *testing.T, name string, count, port int) *etcd {
	t.Helper()
	e := &etcd{}
	var cluster []string
	for n := range count {
		m := member{
			Name: fmt.Sprintf("%s%d", name, n+1), Client: fmt.Sprintf("http://127.0.0.1:%d", port+n), Peer: fmt.Sprintf("http://127.0.0.1:%d", port+count+n),
		}
		m.Dir = filepath.Join(world.Dir(), "run", m.Name)
		e.members = append(e.members, m)
		cluster = append(cluster, m.Name+"="+m.Peer)
	}
	for n := range e.members {
		e.members[n].Cluster = strings.Join(cluster, ",")
		e.processes = append(e.processes, nil)
		e.start(t, n)
	}
	e.leader(t)
	return e
}

// start starts a member, again if it was killed.
func (e *etcd) start(t *testing.T, n int) {
	t.Helper()
	text, err := json.Marshal(e.members[n])
	if err == nil {
		e.processes[n], err = world.Home().Start(ground.Command{Name: e.members[n].Name, Path: "/proc/self/exe", Env: []string{etcdVariable + "=" + string(text)}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// signal is sent to all members.
func (e *etcd) signal(t *testing.T, s os.Signal) {
	t.Helper()
	for _, p := range e.processes {
		if err := p.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
}

// halt stops all members where they are, until SIGCONT.
func (e *etcd) halt(t *testing.T) {
	t.Helper()
	for _, p := range e.processes {
		if err := halt(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
}

// halt stops a process, and returns when none of its threads runs any more: on a busy machine one may go on for a while
// after the signal, and answer.
func halt(ctx context.Context, p *ground.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return stage.Until(ctx, "all threads have stopped", func(context.Context) bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
		for _, file := range threads {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // it has ended
			}
			// "123 (its name) T ..."; the name may have blanks and brackets.
			if _, state, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " "); !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
}

// leader waits until a majority has one and returns its number.
func (e *etcd) leader(t *testing.T) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	found := 0
	if err := stage.Until(ctx, "etcd has a leader", func(ctx context.Context) bool {
		for n := range e.members {
			if led, err := e.leads(ctx, n); err == nil && led {
				found = n
				return true
			}
		}
		return false
	}); err != nil {
		t.Fatalf("%v%s", err, stage.Tail(e.processes[0].Log()))
	}
	return found
}

// leads asks a member, which must serve, whether it is the leader.
func (e *etcd) leads(ctx context.Context, n int) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.members[n].Client}, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return false, err
	}
	status, err := c.Status(ctx, e.members[n].Client)
	if err = errors.Join(err, c.Close()); err != nil {
		return false, err
	}
	return status.Leader != 0 && status.Leader == status.Header.MemberId, nil
}

// revisions are those at which the keys below a prefix were written last.
func (e *etcd) revisions(t *testing.T, prefix string) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: e.endpoints(), Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, kv := range got.Kvs {
		all[string(kv.Key)] = kv.ModRevision
	}
	return all
}

// client is where a member serves, host:port.
func (m member) client() string { return strings.TrimPrefix(m.Client, "http://") }

// endpoints are the members' URLs.
func (e *etcd) endpoints() (all []string) {
	for _, m := range e.members {
		all = append(all, m.Client)
	}
	return all
}
