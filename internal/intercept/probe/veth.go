package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// The two ends of the pair, and the networks between them, which documentation reserves: no real network has them.
const (
	nearName = "evermesh-check"
	farName  = "evermesh-far"
)

// neighbourNets are the networks, IPv4 and IPv6; the near end is the first host, the neighbour the second.
var neighbourNets = []string{"198.51.100.0/30", "2001:db8:e:e::/126"}

// neighbour is another network namespace, one hop from this one.
type neighbour struct {
	tasks chan func()
	near  map[bool]netip.Addr // this namespace's addresses towards it, by whether IPv6
	errs  map[bool]error      // why one is missing
}

// newNeighbour makes the namespace and the pair. It needs the capabilities NET_ADMIN and SYS_ADMIN. It is gone when close has
// returned, or when this process is.
func newNeighbour(ip6 bool) (n *neighbour, err error) {
	n = &neighbour{tasks: make(chan func()), near: map[bool]netip.Addr{}, errs: map[bool]error{}}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the namespace ends with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for task := range n.tasks {
			task()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	if err := n.join(ip6); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// within runs fn in the neighbour's namespace.
func (n *neighbour) within(fn func() error) error {
	result := make(chan error)
	n.tasks <- func() { result <- fn() }
	return <-result
}

func (n *neighbour) join(ip6 bool) error {
	var far int
	if err := n.within(func() (err error) {
		far, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		return fmt.Errorf("open the new network namespace: %w", err)
	}
	defer func() { _ = unix.Close(far) }()
	own, err := openLinks()
	if err != nil {
		return err
	}
	defer own.close()
	if err := own.addPair(far); err != nil {
		return fmt.Errorf("make a pair of interfaces: %w", err)
	}
	families := []bool{false}
	if ip6 {
		families = append(families, true)
	}
	if err := own.configure(nearName, 1, families, n.errs); err != nil {
		return err
	}
	err = n.within(func() error {
		links, err := openLinks()
		if err != nil {
			return err
		}
		defer links.close()
		return links.configure(farName, 2, families, n.errs)
	})
	for _, f := range families {
		if n.errs[f] == nil {
			n.near[f] = hostOf(f, 1)
		}
	}
	return err
}

// close takes the pair away, and the namespace with its thread.
func (n *neighbour) close() {
	if links, err := openLinks(); err == nil {
		_ = links.remove(nearName) // it may never have been made
		links.close()
	}
	close(n.tasks)
}

func netOf(ip6 bool) netip.Prefix {
	i := 0
	if ip6 {
		i = 1
	}
	return netip.MustParsePrefix(neighbourNets[i])
}

func hostOf(ip6 bool, number int) netip.Addr {
	addr := netOf(ip6).Addr()
	for range number {
		addr = addr.Next()
	}
	return addr
}

// links changes interfaces of the namespace in which it was opened.
type links struct{ fd int }

func openLinks() (links, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return links{}, fmt.Errorf("open netlink: %w", err)
	}
	return links{fd}, nil
}

func (l links) close() { _ = unix.Close(l.fd) }

// addPair makes a pair of interfaces, the far one in the namespace of the descriptor.
func (l links) addPair(far int) error {
	peer := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, []byte(farName+"\x00"))...)
	peer = append(peer, attribute(unix.IFLA_NET_NS_FD, number(far))...)
	const vethPeer = 1 // VETH_INFO_PEER
	info := append(attribute(unix.IFLA_INFO_KIND, []byte("veth")), attribute(unix.IFLA_INFO_DATA, attribute(vethPeer, peer))...)
	body := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, []byte(nearName+"\x00"))...)
	return l.do(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(body, attribute(unix.IFLA_LINKINFO, info)...))
}

func (l links) remove(name string) error {
	return l.do(unix.RTM_DELLINK, 0, append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, []byte(name+"\x00"))...))
}

// configure gives the interface its addresses and brings it up. A family that is switched off is told in errs.
func (l links) configure(name string, host int, families []bool, errs map[bool]error) error {
	index, err := l.index(name)
	if err != nil {
		return err
	}
	for _, ip6 := range families {
		prefix, addr := netOf(ip6), hostOf(ip6, host)
		header := []byte{unix.AF_INET, byte(prefix.Bits()), 0, 0}
		if ip6 {
			header[0], header[2] = unix.AF_INET6, unix.IFA_F_NODAD
		}
		body := append(header, number(index)...)
		body = append(body, attribute(unix.IFA_LOCAL, addr.AsSlice())...)
		body = append(body, attribute(unix.IFA_ADDRESS, addr.AsSlice())...)
		if err := l.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body); err != nil {
			errs[ip6] = fmt.Errorf("give %s an address: %w", name, err)
		}
	}
	up := make([]byte, unix.SizeofIfInfomsg)
	copy(up[4:], number(index))
	copy(up[8:], number(unix.IFF_UP))  // flags
	copy(up[12:], number(unix.IFF_UP)) // those that change
	if err := l.do(unix.RTM_NEWLINK, 0, up); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

func (l links) index(name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	return int(request.Uint32()), nil
}

// do sends one request and waits for its acknowledgement.
func (l links) do(kind, flags uint16, body []byte) error {
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	message = append(message, make([]byte, 8)...) // sequence and sender: there is one request at a time
	if err := unix.Sendto(l.fd, append(message, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	size, _, err := unix.Recvfrom(l.fd, answer, 0)
	if err != nil {
		return err
	}
	if size < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink answered something else than an acknowledgement")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// attribute is one attribute of netlink, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (unix.RTA_ALIGNTO-len(b)%unix.RTA_ALIGNTO)%unix.RTA_ALIGNTO)...)
}

func number(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
