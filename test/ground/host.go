//go:build linux

package ground

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// threadNamespace is the calling thread's network namespace. It is right even where /proc shows another PID
// namespace, which a path made of getpid and gettid is not.
const threadNamespace = "/proc/thread-self/ns/net"

// Host is a network namespace with one interface, eth0, on the ground's bridge.
type Host struct {
	ground *Ground
	name   string
	port   string // the bridge's end of its link
	ns     netns.NsHandle
	addr   netip.Addr
	addr6  netip.Addr

	mu        sync.Mutex
	processes []*Process
}

// newHost makes the namespace and joins it to the bridge. The default route leads to the bridge, so that packets to
// addresses that nobody has (a virtual service's) are routed, and can be redirected.
func (g *Ground) newHost(name string, number int) (*Host, error) {
	h := &Host{
		ground: g, name: name, port: fmt.Sprintf("v%d", number),
		addr: address(network4, number), addr6: address(network6, number),
	}
	if err := g.home.do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h.ns, err = netns.GetFromPath(threadNamespace)
		return err
	}); err != nil {
		return nil, err
	}
	err := g.home.do(func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: h.port, MasterIndex: g.bridge},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(h.ns),
		}
		if err := links.LinkAdd(pair); err != nil {
			return err
		}
		return links.LinkSetUp(pair)
	})
	if err == nil {
		err = h.do(h.join)
	}
	if err == nil {
		err = errors.Join(h.do(func() error { return awaitUp("eth0") }), g.home.do(func() error {
			return errors.Join(awaitUp(h.port), awaitUp(bridgeName))
		}))
	}
	if err != nil {
		return nil, errors.Join(err, h.ns.Close())
	}
	return h, nil
}

// linkWait bounds the wait for a link, on a machine that may be busy.
const linkWait = 60 * time.Second

// awaitUp waits until the kernel has noticed that a link of the calling thread's namespace has its other end, which
// it may take a second for. Until then a bridge drops what comes from there.
func awaitUp(name string) error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(linkWait); ; <-tick.C {
		link, err := links.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("link %s does not come up: it is %s", name, link.Attrs().OperState)
		}
	}
}

func (h *Host) join() error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	eth0, err := links.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := h.configure(links, eth0); err != nil {
		return err
	}
	if err := links.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: h.ground.home.addr.AsSlice()}); err != nil {
		return err
	}
	if !h.addr6.IsValid() {
		return nil
	}
	return links.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: h.ground.home.addr6.AsSlice()})
}

// configure brings the loopback and link up and gives link the host's addresses. A kernel without IPv6 leaves the
// host without an IPv6 address.
func (h *Host) configure(links *netlink.Handle, link netlink.Link) error {
	lo, err := links.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := links.LinkSetUp(lo); err != nil {
		return err
	}
	if err := links.LinkSetUp(link); err != nil {
		return err
	}
	if err := links.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: h.addr.AsSlice(), Mask: net.CIDRMask(16, 32)}}); err != nil {
		return err
	}
	six := &netlink.Addr{IPNet: &net.IPNet{IP: h.addr6.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	if err := links.AddrAdd(link, six); err != nil {
		h.addr6 = netip.Addr{}
	}
	return nil
}

// Name is the name that [Ground.Host] was given; "home" for the bridge's host.
func (h *Host) Name() string { return h.name }

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Addr6 is the host's IPv6 address; the zero Addr where the kernel has no IPv6.
func (h *Host) Addr6() netip.Addr { return h.addr6 }

// Do runs fn on a thread that is inside the host's network namespace: sockets that fn itself opens and programs
// that it starts belong to the host. What fn does in other goroutines does not. fn must not end its goroutine
// (t.FailNow).
func (h *Host) Do(fn func() error) error { return h.do(fn) }

func (h *Host) do(fn func() error) error {
	if h.ground.bare {
		return fn()
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			result <- fmt.Errorf("enter host %s: %w", h.name, err)
			return // still locked: the thread ends with the goroutine
		}
		err := fn()
		if netns.Set(h.ground.home.ns) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Dial connects from the host. Names are asked of the ground's name server, afresh each time, and their addresses
// tried in order.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.dial(ctx, net.Dialer{}, network, addr)
}

func (h *Host) dial(ctx context.Context, dialer net.Dialer, network, addr string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := h.ground.dns.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range ips {
		var conn net.Conn
		// A dialer opens the socket of an address, unlike that of a name, on the calling thread.
		err := h.do(func() (err error) {
			conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
			return err
		})
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Listen listens on the host; addr is an address of the host, or none, and a port.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := h.do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), network, addr)
		return err
	})
	return l, err
}

// Client is an HTTP client on the host, with a connection pool of its own.
func (h *Host) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial}}
}

func (h *Host) close() error {
	err := h.Stop()
	if h.ground.bare {
		return err
	}
	// The kernel takes a link away some time after its namespace; the next ground wants the name at once.
	return errors.Join(err, h.ground.home.do(func() error { return removeLink(h.port) }), h.ns.Close())
}

// removeLink deletes a link of the calling thread's namespace, if it is there.
func removeLink(name string) error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	link, err := links.LinkByName(name)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	if err != nil {
		return err
	}
	return links.LinkDel(link)
}
