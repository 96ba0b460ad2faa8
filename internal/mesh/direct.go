package mesh

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Direct says how proxies and application of a workload find each other where nothing
// redirects its traffic; "" is a workload whose traffic is redirected. [NewDirect] makes
// it. It is text, so that clients can be compared, and proxies that say the same have one
// configuration.
type Direct string

// maxPairs bounds the ports that a proxy may name.
const maxPairs = 64

// NewDirect reads what a proxy without interception says: the address at which its
// listeners take what comes in, "" for every one, and "LISTENER:APPLICATION" pairs of
// ports, separated by commas, for an application that does not listen on its node's ports.
func NewDirect(address, ports string) (Direct, error) {
	out := "none"
	if address != "" {
		at, err := netip.ParseAddr(address)
		if err != nil || at.IsUnspecified() || at.IsLoopback() || at.IsMulticast() || at.Zone() != "" {
			return "", fmt.Errorf("%.60q is no address of a workload, such as 10.0.0.7", address)
		}
		out += " " + at.Unmap().String()
	}
	pairs := map[uint16]uint16{}
	for pair := range strings.SplitSeq(ports, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		from, to, _ := strings.Cut(pair, ":")
		x, errX := strconv.ParseUint(from, 10, 16)
		y, errY := strconv.ParseUint(to, 10, 16)
		if errX != nil || errY != nil || x == 0 || y == 0 {
			return "", fmt.Errorf("%.60q is no pair of ports, such as 8080:18080", pair)
		}
		if old, twice := pairs[uint16(x)]; twice && old != uint16(y) {
			return "", fmt.Errorf("port %d is there twice", x)
		}
		pairs[uint16(x)] = uint16(y)
	}
	if len(pairs) > maxPairs {
		return "", errors.New("there are more than " + strconv.Itoa(maxPairs) + " pairs of ports")
	}
	words := []string{out}
	for _, x := range slices.Sorted(maps.Keys(pairs)) {
		words = append(words, fmt.Sprintf("%d:%d", x, pairs[x]))
	}
	return Direct(strings.Join(words, " ")), nil
}

// Ingress is the one address at which proxies take what comes in; "" means every one.
func (d Direct) Ingress() string {
	for word := range strings.FieldsSeq(strings.TrimPrefix(string(d), "none")) {
		if _, err := netip.ParseAddr(word); err == nil {
			return word
		}
	}
	return ""
}

// Application is the port at which the application listens for what comes to a port of
// its node's listeners; told is false when it is not said, and the two are the same.
func (d Direct) Application(port uint32) (of uint32, told bool) {
	want := strconv.FormatUint(uint64(port), 10) + ":"
	for word := range strings.FieldsSeq(string(d)) {
		if to, found := strings.CutPrefix(word, want); found {
			if n, err := strconv.ParseUint(to, 10, 16); err == nil {
				return uint32(n), true
			}
		}
	}
	return port, false
}
