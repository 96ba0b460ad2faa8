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
	"time"

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

// part is a row as it is stored, or a part of it. Client and replica are in its
// key. Etcd keeps what is written in memory for a while, and a wide change writes
// every row: names are short and what repeats is left out.
type part struct {
	Revision int64         `json:"r"`
	ARN      string        `json:"arn,omitempty"` // of the node or gateway
	Members  []member      `json:"m,omitempty"`
	Problems []api.Problem `json:"p,omitempty"`
	Held     []string      `json:"h,omitempty"` // keys of nodes that are not shown as stored
	Lacking  []string      `json:"l,omitempty"` // secrets of its listeners
	Parts    int           `json:"of"`          // into so many the row was cut
	// Write is the same in all parts of one row, and grows with each writing.
	Write int64 `json:"w"`
}

// member is a proxy in a row.
type member struct {
	Instance  string         `json:"i"`
	Peer      *string        `json:"a,omitempty"`
	Envoy     *string        `json:"e,omitempty"`
	Dialect   api.Dialect    `json:"d"`
	Connected int64          `json:"c"` // milliseconds since 1970
	State     api.ProxyState `json:"s"`
	Types     []typeState    `json:"t,omitempty"`
	Notes     []string       `json:"n,omitempty"`
	Addresses []string       `json:"x,omitempty"`
	Traits    []string       `json:"q,omitempty"`
}

// typeState is how far a proxy is with one type.
type typeState struct {
	Type     api.DiscoveryType `json:"t"`
	Wanted   *string           `json:"w,omitempty"`
	Same     bool              `json:"y,omitempty"` // what is accepted is what is wanted
	Accepted *string           `json:"a,omitempty"`
	At       int64             `json:"m,omitempty"` // of the acceptance, milliseconds since 1970
	Refusal  *api.Refusal      `json:"x,omitempty"`
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
	arn := ""
	if len(row.Members) > 0 {
		arn = row.Members[0].ResourceARN // the same for all
		if parsed, err := api.ParseARN(arn); err == nil && parsed.Account != "" {
			at.account = parsed.Account
		}
	}
	for i := range row.Problems {
		row.Problems[i].Message = clipped(row.Problems[i].Message)
	}
	parts := []part{{Problems: row.Problems, Held: row.Held, Lacking: row.Lacking}}
	size := 0
	for _, p := range row.Members {
		m := memberOf(p)
		last := &parts[len(parts)-1]
		if size += m.size(); size > partBytes && len(last.Members) > 0 {
			parts, size = append(parts, part{}), m.size()
			last = &parts[len(parts)-1]
		}
		last.Members = append(last.Members, m)
	}
	ops := make([]store.Op, len(parts))
	for i, p := range parts {
		p.Revision, p.ARN, p.Parts, p.Write = row.Revision, arn, len(parts), write
		value, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode ledger row: %w", err)
		}
		ops[i] = store.Op{Key: at.key(i), Value: value, Lasting: true}
	}
	return ops, nil
}

// memberOf is the proxy as it is stored, with texts of bounded length.
func memberOf(p api.Proxy) member {
	m := member{
		Instance: p.Instance, Peer: p.Peer, Envoy: p.EnvoyVersion, Dialect: p.Dialect, Connected: p.ConnectedAt.UnixMilli(), State: p.State,
		Types: make([]typeState, len(p.Types)), Addresses: p.Addresses, Traits: p.Traits,
	}
	for i, t := range p.Types {
		s := typeState{Type: t.Type, Wanted: t.Wanted, Accepted: t.Accepted}
		if s.Same = t.Wanted != nil && t.Accepted != nil && *t.Wanted == *t.Accepted; s.Same {
			s.Accepted = nil
		}
		if t.AcceptedAt != nil {
			s.At = t.AcceptedAt.UnixMilli()
		}
		if t.Refusal != nil {
			refusal := *t.Refusal
			refusal.Message = clipped(refusal.Message)
			s.Refusal = &refusal
		}
		m.Types[i] = s
	}
	for _, n := range p.Notes {
		m.Notes = append(m.Notes, clipped(n))
	}
	return m
}

// size is about how much the member takes; texts may double where JSON escapes
// them.
func (m *member) size() int {
	n := 150 + len(m.Instance) + 180*len(m.Types) + 50*len(m.Addresses)
	for _, t := range m.Types {
		if t.Refusal != nil {
			n += 100 + 2*len(t.Refusal.Message)
		}
	}
	for _, text := range m.Notes {
		n += 2 * len(text)
	}
	for _, text := range m.Traits {
		n += len(text) + 3
	}
	return n
}

// proxy is the inverse of memberOf.
func (m *member) proxy(at place, arn string) api.Proxy {
	p := api.Proxy{
		ConnectedAt: stamp(m.Connected), Dialect: m.Dialect, EnvoyVersion: m.Envoy, Instance: m.Instance, Notes: m.Notes, Peer: m.Peer,
		Replica: at.replica, ResourceARN: arn, State: m.State, Types: make([]api.TypeStatus, len(m.Types)), Addresses: m.Addresses, Traits: m.Traits,
	}
	for i, s := range m.Types {
		t := api.TypeStatus{Type: s.Type, Wanted: s.Wanted, Accepted: s.Accepted, Refusal: s.Refusal}
		if s.Same {
			t.Accepted = s.Wanted
		}
		if s.At != 0 {
			accepted := stamp(s.At)
			t.AcceptedAt = &accepted
		}
		p.Types[i] = t
	}
	return p
}

func stamp(milliseconds int64) api.Timestamp {
	return api.Timestamp{Time: time.UnixMilli(milliseconds).UTC()}
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
	torn  bool
	place place
	parts int // stored
	write int64
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
	for at, parts := range byPlace {
		out = append(out, join(at, parts))
	}
	slices.SortFunc(out, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Client, b.Client), strings.Compare(a.Replica, b.Replica))
	})
	return out, nil
}

// join puts parts of one row together, of the newest writing if it is complete.
func join(at place, parts []part) row {
	newest := slices.MaxFunc(parts, func(a, b part) int { return cmp.Compare(a.Write, b.Write) })
	now := slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.Write != newest.Write })
	out := row{
		LedgerRow: api.LedgerRow{Client: at.client, Replica: at.replica, Revision: newest.Revision},
		place:     at, parts: len(parts), write: newest.Write,
	}
	if out.torn = len(now) != newest.Parts; out.torn {
		now = parts
		slices.SortStableFunc(now, func(a, b part) int { return cmp.Compare(b.Write, a.Write) })
	}
	type connection struct {
		instance string
		at       int64
	}
	seen := map[connection]bool{}
	for _, p := range now {
		for _, m := range p.Members {
			if id := (connection{m.Instance, m.Connected}); !out.torn || !seen[id] {
				seen[id] = true
				out.Members = append(out.Members, m.proxy(at, p.ARN))
			}
		}
		out.Problems = append(out.Problems, p.Problems...)
		out.Held = append(out.Held, p.Held...)
		out.Lacking = append(out.Lacking, p.Lacking...)
	}
	return out
}
