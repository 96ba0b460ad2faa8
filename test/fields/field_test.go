//go:build linux

package fields

import (
	"strings"
	"testing"
)

// field is a case: one leaf, and what it does.
type field struct {
	// title tells the cases of one leaf apart: a few words, or nothing.
	title string
	// ids are those of the requirements that the case shows, at most three.
	ids string
	// given are edits of the scene's base, a line each; change is the one that the
	// case is about, of one leaf. See the package comment for their form.
	given, change string
	// see is what looks before and after the change; it sees what before and after
	// say.
	see           probe
	before, after string
	// timed says that what is seen hangs on who is sooner, Envoy or the application, and that a machine which is busy for
	// less than a second may have it the other way round: what is not as it should be is looked at again.
	timed bool
	// refused is a part of what the API says when it refuses the change; nothing
	// else is looked at then.
	refused string
	// ignored is a part of the problem that explain reports after the change, where
	// App Mesh ignores the field: the probe sees the same before and after.
	ignored string
}

// leaf is the path of what the case changes.
func (f field) leaf(t *testing.T) string {
	t.Helper()
	e, err := parseEdit(f.change)
	if err != nil {
		t.Fatal(err)
	}
	return e.leaf()
}

// name is the case's, unique in its scene: the leaf and the title.
func (f field) name(t *testing.T) string {
	return strings.TrimSpace(f.leaf(t) + " " + f.title)
}

// test is the name of the case's test in its scene.
func (f field) test(t *testing.T) string {
	return strings.TrimSpace(f.ids + " " + f.name(t))
}

// states are the scene's resources as the case finds them and as it leaves
// them.
func (f field) states(t *testing.T, base []resource) (before, after []resource) {
	t.Helper()
	before, err := edited(base, f.given)
	if err != nil {
		t.Fatalf("given: %v", err)
	}
	if after, err = edited(before, f.change); err != nil {
		t.Fatalf("change: %v", err)
	}
	return before, after
}
