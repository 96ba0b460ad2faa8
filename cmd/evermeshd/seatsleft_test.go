package main

import (
	"fmt"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
)

// term ends a control plane in good order.
func (p *plane) term(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Fatalf("it ended with %d\n%s", code, p.said(t))
	}
}

// seat asks for one of a mesh's node n, and tells how it went: a stream is open when there
// is something to get.
func (p *plane) seat(t *testing.T, mesh, instance string) codes.Code {
	t.Helper()
	s := adstest.Open(t, adstest.Dial(t, p.xds(t)), adstest.Options{Node: "mesh/" + mesh + "/virtualNode/n", Instance: instance, Delta: true})
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
	if _, err := s.Recv(); err != nil {
		code, _ := adstest.Status(err)
		return code
	}
	return codes.OK
}

// in fails the test for those who get none.
func (p *plane) in(t *testing.T, mesh string, instances ...string) {
	t.Helper()
	for _, name := range instances {
		if code := p.seat(t, mesh, name); code != codes.OK {
			t.Errorf("%s is refused in %s: %v", name, mesh, code)
		}
	}
}

// binds waits until the replica has heard of a quota of one, by proxies of a mesh in which
// nobody else is: one that comes in may come back, so each try is another's.
func (p *plane) binds(t *testing.T, mesh string) {
	t.Helper()
	try := 0
	eventually(t, "the quota is known", func() bool {
		try++
		return p.seat(t, mesh, fmt.Sprint("try ", try)) == codes.ResourceExhausted
	})
}

// meshes makes meshes with a node n each.
func (p *plane) meshes(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: name}, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.call(t.Context(), "CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: name, VirtualNodeName: "n", Spec: api.VirtualNodeSpec{}}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing limits while they come; a quota of one is there when they come back.
func TestProxiesAreKnownAfterRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir, "--drain-seconds", "0", "--auth", "off")
	p.meshes(t, "apps", "other")
	p.in(t, "apps", "one", "two", "three")
	p.term(t)
	p = start(t, dir, "--drain-seconds", "0", "--auth", "off")
	if got := run(t.Context(), []string{"quota", "set", "--data-dir", dir, "000000000000", "L-606A910B", "1"}); got != 0 {
		t.Fatalf("quota set: exit code %d", got)
	}
	p.binds(t, "other")
	p.in(t, "apps", "one", "two")
	p.term(t)
	p = start(t, dir, "--drain-seconds", "0", "--auth", "off")
	t.Run("EMS-014 after the second too, also one that was not there between them", func(t *testing.T) {
		p.in(t, "apps", "one", "two", "three")
		if code := p.seat(t, "apps", "four"); code != codes.ResourceExhausted {
			t.Errorf("who is new is told %v", code)
		}
	})
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.exit(t)
	p = start(t, dir, "--drain-seconds", "0", "--auth", "off")
	t.Run("EMS-014 after it was killed", func(t *testing.T) {
		p.in(t, "apps", "one", "two", "three")
	})
}

// A rolling upgrade: each replica's proxies go to the other, which has not looked at
// their mesh before, and back.
func TestProxiesAreKnownWhenTheirReplicaLeaves_EMS_014(t *testing.T) {
	t.Parallel()
	e, key := newEtcd(t).start(t), masterKey(t)
	replica := func() *plane {
		return start(t, t.TempDir(), "--drain-seconds", "0", "--auth", "off", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	}
	a, b := replica(), replica()
	a.meshes(t, "apps", "other", "another")
	a.in(t, "apps", "one", "two", "three")
	if got := run(t.Context(), []string{"quota", "set", "--etcd-endpoints", e.endpoint, "000000000000", "L-606A910B", "1"}); got != 0 {
		t.Fatalf("quota set: exit code %d", got)
	}
	b.binds(t, "other")
	a.term(t)
	b.in(t, "apps", "one", "two")
	a = replica()
	a.binds(t, "another")
	b.term(t)
	a.in(t, "apps", "one", "two", "three")
	if code := a.seat(t, "apps", "four"); code != codes.ResourceExhausted {
		t.Errorf("who is new is told %v", code)
	}
}
