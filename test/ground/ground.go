//go:build linux

// Package ground makes several hosts of one process: a bridge with a name server, and a network namespace for each
// workload, joined to the bridge by a pair of virtual interfaces. The demo and the end-to-end tests stand on it.
// It needs no root, no `ip`, no `dnsmasq` and no `setpriv`; only nft or iptables-restore, for redirection.
//
// Read it in this order. [Enter] runs the current program again in new namespaces of its own, the first process of
// a new PID namespace: when it ends, even by SIGKILL, everything that it started ends with it. Before Enter says
// yes it has done the real thing once (probe.go), and if a step fails it names it ([Missing]). Inside, [New] lays
// the bridge and starts the name server ([DNS]); [Ground.Host] adds a host; [Host.Start] runs programs there,
// [Host.Dial] and [Host.Client] connect from there.
//
//	func TestMain(m *testing.M) {
//		exit, inside, err := ground.Enter(context.Background())
//		switch {
//		case err != nil:
//			fmt.Fprintln(os.Stderr, err)
//			os.Exit(1)
//		case !inside:
//			os.Exit(exit) // the tests ran inside
//		}
//		os.Exit(m.Run())
//	}
//
// One entered program holds one ground at a time, because the name server's address is bound over resolv.conf. Any
// number of entered programs may run at once: their networks do not see each other, so addresses may repeat. All
// hosts share the file system: a unix socket made by one is reachable from all.
package ground

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network of a ground: the bridge is 10.77.0.1, hosts follow from .10 on, in the order in which they were asked for.
const (
	bridgeName = "br0"
	network4   = "10.77.0.0"
	network6   = "fd77::"
	bridgeHost = 1
	firstHost  = 10
	lastHost   = 1000 // a bridge has 1024 ports
)

// Ground is a bridge, its name server and the hosts on it. Its methods may be called by several goroutines.
type Ground struct {
	// Keep leaves Dir in place at Close, for its logs. Set it before Close.
	Keep bool

	dir    string
	bare   bool // no namespaces: Home is the machine
	owner  Owner
	home   *Host
	dns    *DNS
	bridge int // index of the bridge's link

	mu     sync.Mutex
	hosts  map[string]*Host
	tools  map[string]string // where Tool placed the program of a path
	mounts []string          // undone at Close, last first
}

// New lays a ground in an entered program. The caller must Close it. Errors are [*Missing].
func New() (*Ground, error) {
	g := &Ground{owner: findOwner(), hosts: map[string]*Host{}, tools: map[string]string{}}
	if err := g.lay(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Bare is a ground for machines that allow no better: Home is the machine itself, there are no other hosts, no name
// server and no redirection, and Owner is zero. Its programs end with Close, or with the program that started them.
func Bare() (*Ground, error) {
	dir, err := makeDir(Owner{})
	g := &Ground{dir: dir, bare: true, hosts: map[string]*Host{}, tools: map[string]string{}}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.home = &Host{ground: g, name: "home", addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), addr6: netip.IPv6Loopback()}
	return g, nil
}

func (g *Ground) lay() error {
	var err error
	if g.dir, err = makeDir(g.owner); err != nil {
		return step("make the ground's directory", "TMPDIR must be searchable by every user", err)
	}
	handle, err := netns.GetFromPath(threadNamespace)
	if err != nil {
		return step("open the network namespace", "/proc must be mounted", err)
	}
	g.home = &Host{ground: g, name: "home", port: bridgeName, ns: handle, addr: address(network4, bridgeHost), addr6: address(network6, bridgeHost)}
	if err := g.home.do(g.layBridge); err != nil {
		return step("make a bridge", "the kernel must have the modules bridge and veth", err)
	}
	if g.dns, err = serveDNS(g.home.addr); err != nil {
		return step("start the name server", "port 53 of the bridge's address must be free", err)
	}
	return g.bindResolver()
}

func (g *Ground) layBridge() error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	// With an address of its own the bridge keeps it; else it takes the lowest of its ports', and hosts lose it.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, HardwareAddr: net.HardwareAddr{2, 0, 10, 77, 0, bridgeHost}}}
	if err := links.LinkAdd(bridge); err != nil {
		return err
	}
	g.bridge = bridge.Index
	return g.home.configure(links, bridge)
}

// Home is the host of the bridge itself, where the entered program lives: the place of the control plane.
func (g *Ground) Home() *Host { return g.home }

// DNS is the name server that every host asks.
func (g *Ground) DNS() *DNS { return g.dns }

// Dir holds the ground's files, readable by every user: log/HOST.NAME.log and what callers put there.
func (g *Ground) Dir() string { return g.dir }

// Owner says how Envoy and its agent are told apart from the workload's traffic here.
func (g *Ground) Owner() Owner { return g.owner }

// Host returns the host of that name, made at the first call. Names are for people: logs and errors carry them; the
// name server learns nothing by itself.
func (g *Ground) Host(name string) (*Host, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bare {
		return nil, fmt.Errorf("host %s: a bare ground has no hosts", name)
	}
	if h, ok := g.hosts[name]; ok {
		return h, nil
	}
	number := firstHost + len(g.hosts)
	if number > lastHost {
		return nil, fmt.Errorf("host %s: a ground has %d hosts at most", name, lastHost-firstHost+1)
	}
	h, err := g.newHost(name, number)
	if err != nil {
		return nil, step("make a network namespace for host "+name, "the kernel must have the module veth", err)
	}
	g.hosts[name] = h
	return h, nil
}

// Hosts are those that [Ground.Host] has made, in no order.
func (g *Ground) Hosts() []*Host {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.hosts))
}

// Tool makes the program at path runnable by every user of the ground and returns the path to run: a checkout or a
// Go build directory is often closed to others, so the file is mounted into Dir. The file itself must be readable
// by everybody.
func (g *Ground) Tool(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find tool: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find tool: %w", err)
	}
	if g.owner.UID == 0 {
		return path, nil
	}
	// What is mounted must be a file of this mount namespace, which /proc/self/exe is not.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("find tool: %w", err)
	}
	if info.Mode()&0o005 != 0o005 {
		return "", fmt.Errorf("tool %s has mode %v: uid %d must be able to read and run it", path, info.Mode().Perm(), g.owner.UID)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if place, ok := g.tools[path]; ok {
		return place, nil
	}
	place := filepath.Join(g.dir, "bin", filepath.Base(path))
	if _, err := os.Stat(place); err == nil { // another program of that name
		place += strconv.Itoa(len(g.tools))
	}
	if f, err := os.OpenFile(place, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err != nil {
		return "", fmt.Errorf("place tool: %w", err)
	} else if err := f.Close(); err != nil {
		return "", fmt.Errorf("place tool: %w", err)
	}
	if err := g.bind(path, place); err != nil {
		return "", err
	}
	g.tools[path] = place
	return place, nil
}

// Close ends every process of the ground, the name server and the bridge, and removes Dir unless Keep is set.
func (g *Ground) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, h := range g.hosts {
		errs = append(errs, h.close())
	}
	if g.dns != nil {
		errs = append(errs, g.dns.close())
	}
	if g.home != nil {
		errs = append(errs, g.home.close())
	}
	errs = append(errs, g.unbind())
	if g.dir != "" && !g.Keep {
		errs = append(errs, removeDir(g.dir))
	}
	return errors.Join(errs...)
}

// address is that of a host in a network: 10.77.3.20, or fd77::3:14, in the last two
// bytes of which is its number.
func address(network string, number int) netip.Addr {
	a := netip.MustParseAddr(network).AsSlice()
	a[len(a)-2], a[len(a)-1] = byte(number>>8), byte(number)
	out, _ := netip.AddrFromSlice(a) // it has the length of an address
	return out
}
