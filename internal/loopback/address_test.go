package loopback

import (
	"fmt"
	"net/netip"
	"testing"
)

// Names that resolve by hand-written lines must go on doing so: these addresses are promised.
func TestAddressesStay(t *testing.T) {
	for name, want := range map[string]string{
		"colors.shop.local": "127.142.72.194", "db.shop.local": "127.99.13.30", "": "127.209.49.118",
	} {
		if got := Address(name); got.String() != want {
			t.Errorf("%q is at %s, want %s", name, got, want)
		}
	}
	if Address("DB.shop.LOCAL") != Address("db.shop.local") {
		t.Error("DNS has no case, but the address has")
	}
}

func TestAddressesAreLoopbackAndSpread(t *testing.T) {
	const names = 5000
	low, high := netip.MustParseAddr("127.1.0.0"), netip.MustParseAddr("127.255.255.254")
	seen := map[netip.Addr]bool{}
	for i := range names {
		a := Address(fmt.Sprintf("service-%d.mesh.local", i))
		if a.Less(low) || high.Less(a) {
			t.Fatalf("%s is not between %s and %s", a, low, high)
		}
		seen[a] = true
	}
	// Of 5,000 random addresses 0.75 are expected to be another's.
	if len(seen) < names-8 {
		t.Errorf("%d names have %d addresses", names, len(seen))
	}
}
