package mesh_test

import (
	"slices"
	"testing"

	"github.com/evermesh/evermesh/internal/mesh"
)

// The ledger keeps traits as words: nothing of them is lost there.
func TestTraitsAreKeptAsWords(t *testing.T) {
	t.Parallel()
	for _, traits := range mesh.EveryTraits() {
		words := traits.Words()
		if got := mesh.TraitsOf(words); got != traits {
			t.Errorf("%q are of %+v, and read as %+v", words, traits, got)
		}
		if !slices.IsSorted(words) {
			t.Errorf("%q are not sorted", words)
		}
	}
	if got := mesh.TraitsOf([]string{"of another release", "metrics"}); got != (mesh.Traits{Metrics: true}) {
		t.Errorf("beside an unknown word: %+v", got)
	}
}

func TestProxiesThatDifferInTheirAddressAlone(t *testing.T) {
	t.Parallel()
	of := func(address, ports string) mesh.Direct {
		d, err := mesh.NewDirect(address, ports)
		if err != nil {
			t.Fatal(err)
		}
		return d.Anywhere()
	}
	if of("10.0.0.7", "80:18080") != of("10.0.0.8", "80:18080") || of("fd00::1", "") != of("10.0.0.8", "") {
		t.Error("addresses tell them apart")
	}
	if of("10.0.0.7", "") == of("", "") || of("10.0.0.7", "80:1") == of("10.0.0.7", "80:2") {
		t.Error("others are alike, too")
	}
	for ports, want := range map[string]string{"": "", "443:18443,80:18080": "80:18080,443:18443"} {
		for _, address := range []string{"", "10.0.0.7", "fd00::1", "1:2:3:4:5:6:7:8"} {
			if d, err := mesh.NewDirect(address, ports); err != nil || d.Pairs() != want || d.Ingress() != address {
				t.Errorf("%q has pairs %q and address %q, %v", d, d.Pairs(), d.Ingress(), err)
			}
		}
	}
	if got := mesh.Direct("").Anywhere(); got != "" {
		t.Errorf("with interception: %q", got)
	}
}
