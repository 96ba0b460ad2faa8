package service

import (
	"encoding/base64"
	"slices"
	"strings"
)

// Page is the page of a list behind a token; items are in the order of their keys,
// which are each item's own. The token of the page after it, nil where there is none,
// names the last item by its key: a list that changes meanwhile neither repeats nor
// skips what stays (D2). A page has at most most items, or usual ones where that is
// nil. It is not ok when the token is none that Token made.
func Page[T any](all []T, key func(T) string, token *string, most *int64, usual int) (page []T, next *string, ok bool) {
	after, ok := After(token)
	if !ok {
		return nil, nil, false
	}
	if after != "" {
		from := slices.IndexFunc(all, func(item T) bool { return key(item) > after })
		if from < 0 {
			from = len(all)
		}
		all = all[from:]
	}
	page, next = cut(all, key, most, usual)
	return page, next, true
}

// PageAsListed is Page for a list in another order than that of its keys, such as
// newest first. A token whose item is gone is not ok: the list begins anew.
func PageAsListed[T any](all []T, key func(T) string, token *string, most *int64, usual int) (page []T, next *string, ok bool) {
	after, ok := After(token)
	if !ok {
		return nil, nil, false
	}
	if after != "" {
		last := slices.IndexFunc(all, func(item T) bool { return key(item) == after })
		if last < 0 {
			return nil, nil, false
		}
		all = all[last+1:]
	}
	page, next = cut(all, key, most, usual)
	return page, next, true
}

func cut[T any](all []T, key func(T) string, most *int64, usual int) (page []T, next *string) {
	limit := usual
	if most != nil {
		limit = int(*most)
	}
	if len(all) <= limit {
		return all, nil
	}
	return all[:limit], Token(key(all[limit-1]))
}

// said begins what a token says, so that what is no token is not taken for one.
const said = "after "

// Token is an opaque token of the page after a key.
func Token(after string) *string {
	return new(base64.RawURLEncoding.EncodeToString([]byte(said + after)))
}

// After is the key that Token was given. No token, and an empty one, begin a list.
func After(token *string) (after string, ok bool) {
	if token == nil || *token == "" {
		return "", true
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(*token)
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(string(text), said)
}
