package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/model"
)

// unknown is a member of a document that its shape does not know. path is as in
// model.Violation.
type unknown struct{ path, text string }

// unknownMembers names the members of a document that its shape does not know,
// in a line each. The API ignores them, as AWS does, and a person who misspelt
// one would never learn of it.
func unknownMembers(m *model.Model, shape string, doc any) []unknown {
	return walkUnknown(m, shape, unknown{}, doc, nil)
}

// walkUnknown looks at the part of a document at a place: its path, and the same
// as a person reads it.
func walkUnknown(m *model.Model, name string, place unknown, doc any, found []unknown) []unknown {
	s := m.Shapes[name]
	switch s.Type {
	case "structure":
		members, ok := doc.(map[string]any)
		if !ok {
			return found // the checker names it
		}
		for _, member := range sorted(members) {
			at := unknown{strings.TrimPrefix(place.path+"."+member, "."), strings.TrimPrefix(place.text+"."+member, ".")}
			ref, known := s.Members[member]
			switch {
			case !known:
				at.text += " is not a member that App Mesh knows, and is ignored: " + instead(s, member)
				found = append(found, at)
			case members[member] == nil:
				// null is as good as absent
			default:
				found = walkUnknown(m, ref.Shape, at, members[member], found)
			}
		}
	case "list":
		items, _ := doc.([]any)
		for i, item := range items {
			found = walkUnknown(m, s.Member.Shape, unknown{fmt.Sprintf("%s.%d.member", place.path, i+1), fmt.Sprintf("%s[%d]", place.text, i)}, item, found)
		}
	}
	return found
}

// instead says what to do about an unknown member.
func instead(s *model.Shape, member string) string {
	for _, known := range sorted(s.Members) {
		if strings.EqualFold(known, member) {
			return fmt.Sprintf("it is written %q", known)
		}
	}
	return "remove it, or choose from " + strings.Join(sorted(s.Members), ", ")
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
