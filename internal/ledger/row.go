package ledger

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// partBytes bounds a stored row: a node with many proxies has several, as an
	// etcd with its own settings takes 1.5 MiB at once.
	partBytes = 256 << 10
	// maxText bounds each text of a row (D8).
	maxText = 1000
)

// part is a row as it is stored, or a part of it.
type part struct {
	api.LedgerRow
	Parts int `json:"parts"` // into so many the row was cut
	// Write is the same in all parts of one row, and grows with each writing.
	Write int64 `json:"write"`
}

// place is what the key of a part says, so that a reader need not decode what is
// not for it: ledger/rows/<client>/<account>/<replica>/<part>.
type place struct {
	client  string // the key of the client
	account string // owner of the node or gateway
	replica string
}

// below is the prefix of the rows of all clients of key's mesh.
func below(key api.Key) string {
	return rowPrefix + url.PathEscape(key.Owner) + "/" + url.PathEscape(key.Mesh) + "/"
}

func (p place) key(part int) string {
	return rowPrefix + p.client + "/" + url.PathEscape(p.account) + "/" + url.PathEscape(p.replica) + "/" + strconv.Itoa(part)
}

func placeOf(key string) (place, error) {
	parts := strings.Split(strings.TrimPrefix(key, rowPrefix), "/")
	n := len(parts) - 3
	if n < 1 {
		return place{}, fmt.Errorf("read ledger: %q is not the key of a row", key)
	}
	account, err := url.PathUnescape(parts[n])
	if err != nil {
		return place{}, fmt.Errorf("read ledger: key %q: %w", key, err)
	}
	replica, err := url.PathUnescape(parts[n+1])
	if err != nil {
		return place{}, fmt.Errorf("read ledger: key %q: %w", key, err)
	}
	return place{client: strings.Join(parts[:n], "/"), account: account, replica: replica}, nil
}

// cut makes what is stored of a row, at least one part.
func cut(c mesh.Client, replica string, row api.LedgerRow, write int64) ([]store.Op, error) {
	at := place{client: c.Key.String(), account: c.Key.Owner, replica: replica}
	if len(row.Members) > 0 {
		if arn, err := api.ParseARN(row.Members[0].ResourceARN); err == nil && arn.Account != "" {
			at.account = arn.Account
		}
	}
	for i := range row.Problems {
		row.Problems[i].Message = clipped(row.Problems[i].Message)
	}
	var parts []part
	next := part{LedgerRow: row, Write: write}
	next.Members = nil
	size := 0
	for _, m := range row.Members {
		m = bounded(m)
		encoded, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode proxy: %w", err)
		}
		if size += len(encoded) + 1; size > partBytes && len(next.Members) > 0 {
			parts = append(parts, next)
			next.Members, next.Problems, size = nil, nil, len(encoded)+1
		}
		next.Members = append(next.Members, m)
	}
	parts = append(parts, next)
	ops := make([]store.Op, len(parts))
	for i, p := range parts {
		p.Parts = len(parts)
		value, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode ledger row: %w", err)
		}
		ops[i] = store.Op{Key: at.key(i), Value: value}
	}
	return ops, nil
}

// bounded is the proxy with texts of bounded length.
func bounded(p api.Proxy) api.Proxy {
	p.Types = slices.Clone(p.Types)
	for i, t := range p.Types {
		if t.Refusal != nil {
			refusal := *t.Refusal
			refusal.Message = clipped(refusal.Message)
			p.Types[i].Refusal = &refusal
		}
	}
	p.Notes = slices.Clone(p.Notes)
	for i := range p.Notes {
		p.Notes[i] = clipped(p.Notes[i])
	}
	return p
}

func clipped(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}

// row is what one replica says of one client.
type row struct {
	api.LedgerRow
	// torn says that its parts were read while they were written: proxies may be
	// missing.
	torn bool
}

// joined puts the parts of each row together.
func joined(values map[string][]byte, wanted func(place) bool) ([]row, error) {
	byPlace := map[place][]part{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at, err := placeOf(key)
		if err != nil {
			return nil, err
		}
		if !wanted(at) {
			continue
		}
		var p part
		if err := json.Unmarshal(values[key], &p); err != nil {
			return nil, fmt.Errorf("decode ledger row %s: %w", key, err)
		}
		byPlace[at] = append(byPlace[at], p)
	}
	out := make([]row, 0, len(byPlace))
	for _, parts := range byPlace {
		out = append(out, join(parts))
	}
	slices.SortFunc(out, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Client, b.Client), strings.Compare(a.Replica, b.Replica))
	})
	return out, nil
}

// join puts parts of one row together, of the newest writing if it is complete.
func join(parts []part) row {
	newest := slices.MaxFunc(parts, func(a, b part) int { return cmp.Compare(a.Write, b.Write) })
	now := slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.Write != newest.Write })
	out := row{LedgerRow: newest.LedgerRow}
	if out.torn = len(now) != newest.Parts; out.torn {
		now = parts
		slices.SortStableFunc(now, func(a, b part) int { return cmp.Compare(b.Write, a.Write) })
	}
	out.Members, out.Problems = nil, nil
	seen := map[string]bool{}
	for _, p := range now {
		for _, m := range p.Members {
			if id := m.Instance + "\n" + m.ConnectedAt.String(); !out.torn || !seen[id] {
				seen[id] = true
				out.Members = append(out.Members, m)
			}
		}
		out.Problems = append(out.Problems, p.Problems...)
	}
	return out
}
