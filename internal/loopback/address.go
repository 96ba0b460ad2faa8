// Package loopback says at which address a virtual service is called where nothing redirects a workload's traffic:
// [Address]. Envoy listens there, and names are to resolve to it.
package loopback

import (
	"hash/fnv"
	"net/netip"
	"strings"
)

// The range of the addresses, in 127.0.0.0/8; what is below is left to others, as 127.0.0.1 and 127.0.0.53.
const (
	first = 0x7f_01_00_00 // 127.1.0.0
	last  = 0x7f_ff_ff_fe // 127.255.255.254
)

// Address is the address of the virtual service of that name, in any case. It follows from the name alone: whoever has
// to make names resolve can know it beforehand, and no change ever moves it. Two of a hundred services have the same in
// one of 3,400 meshes. By HTTP that is nothing, as the host name decides; of two tcp services on one port the second is a
// conflict then.
func Address(service string) netip.Addr {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.ToLower(service))) // never fails
	n := first + uint32(h.Sum64()%(last-first+1))
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
