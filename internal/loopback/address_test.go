package loopback

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
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

// What the page on this says of addresses can be pasted.
func TestPageTellsTheAddresses(t *testing.T) {
	text, err := os.ReadFile("../../docs/without-net-admin.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]int{}
	for _, m := range regexp.MustCompile(`(127\.[0-9.]+)(?:\t|, hostnames: \[)([a-z.]+)|--add-host ([a-z.]+):(127\.[0-9.]+)|"Name": "([a-z.]+)".*?"Value": "(127\.[0-9.]+)"`).FindAllStringSubmatch(string(text), -1) {
		name, at := m[2]+m[3]+m[5], m[1]+m[4]+m[6]
		if told[name]++; Address(name).String() != at {
			t.Errorf("the page says that %s is at %s, and it is at %s", name, at, Address(name))
		}
	}
	if told["colors.shop.local"] != 4 || told["db.shop.local"] != 2 {
		t.Errorf("these were read: %v", told)
	}
}
