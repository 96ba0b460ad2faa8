package service_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/service"
)

func itself(s string) string { return s }

func two() *int64 { return new(int64(2)) }

func TestPagesOfAListThatChanges(t *testing.T) {
	page, token, ok := service.Page(strings.Split("a b c d", " "), itself, nil, two(), 100)
	if !ok || token == nil || !slices.Equal(page, []string{"a", "b"}) {
		t.Fatalf("the first page is %q", page)
	}
	page, token, ok = service.Page(strings.Split("a a1 c d", " "), itself, token, nil, 100)
	if !ok || token != nil || !slices.Equal(page, []string{"c", "d"}) {
		t.Errorf("behind an item that is gone the page is %q, %v", page, ok)
	}
}

func TestPagesAsListed(t *testing.T) {
	_, token, _ := service.PageAsListed(strings.Split("d c a b", " "), itself, nil, two(), 100)
	page, next, ok := service.PageAsListed(strings.Split("e d c a b", " "), itself, token, nil, 100)
	if !ok || next != nil || !slices.Equal(page, []string{"a", "b"}) {
		t.Errorf("the second page is %q", page)
	}
	if _, _, ok := service.PageAsListed(strings.Split("d a b", " "), itself, token, nil, 100); ok {
		t.Error("a token whose item is gone is taken")
	}
}

func TestStrangeTokens(t *testing.T) {
	for _, token := range []string{"?", "bm8", "YQ"} {
		if _, _, ok := service.Page([]string{"a", "b"}, itself, &token, nil, 100); ok {
			t.Errorf("Page takes %q", token)
		}
		if _, _, ok := service.PageAsListed([]string{"a", "b"}, itself, &token, nil, 100); ok {
			t.Errorf("PageAsListed takes %q", token)
		}
	}
}
