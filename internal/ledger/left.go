package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

// A replica that leaves takes its rows with it. Whose proxies are counted by a quota
// needs to know them for longer: they come back, to it or to another.

// leftPrefix is where the notes of replicas that left are:
// ledger/left/<owner>/<mesh>/<replica>/<part>.
const leftPrefix = "ledger/left/"

// left is a note: of nodes and gateways, by their keys, when each of their proxies was
// connected last, in seconds since 1970.
type left map[string]map[string]int64

// add notes a proxy, unless it is noted with a later time.
func (l left) add(client, proxy string, at int64) {
	if l[client] == nil {
		l[client] = map[string]int64{}
	}
	l[client][proxy] = max(l[client][proxy], at)
}

// has says whether all of the other is in this one.
func (l left) has(other left) bool {
	for client, proxies := range other {
		for proxy, at := range proxies {
			if l[client][proxy] < at {
				return false
			}
		}
	}
	return true
}

// Keep notes when proxies of nodes and gateways were connected last, by the names by
// which they are known again; whoever asks Left is told so for that long, whatever
// becomes of this replica. Notes of others that say nothing more are removed: replicas
// that follow one another leave one. It is for a replica that leaves, before it ends its
// streams.
func (w *Writer) Keep(ctx context.Context, seen map[api.Key]map[string]time.Time, lasts time.Duration) error {
	all, ops := left{}, []store.Op{}
	for _, group := range byMesh(seen) {
		part, size, parts := left{}, 0, 0
		finish := func() error {
			value, err := json.Marshal(part)
			if err != nil {
				return fmt.Errorf("encode note of proxies: %w", err)
			}
			ops = append(ops, store.Op{Key: leftBelow(group[0]) + url.PathEscape(w.Replica.ID) + "/" + strconv.Itoa(parts), Value: value})
			part, size, parts = left{}, 0, parts+1
			return nil
		}
		for _, key := range group {
			client := key.String()
			for _, proxy := range slices.Sorted(maps.Keys(seen[key])) {
				if size += len(proxy) + 20; part[client] == nil {
					size += len(client) + 10
				}
				at := seen[key][proxy].Unix()
				part.add(client, proxy, at)
				all.add(client, proxy, at)
				if size < partBytes {
					continue
				}
				if err := finish(); err != nil {
					return err
				}
			}
		}
		if len(part) == 0 {
			continue
		}
		if err := finish(); err != nil {
			return err
		}
	}
	if len(ops) == 0 {
		return nil
	}
	if err := w.Store.WriteTogether(ctx, ops, lasts); err != nil {
		return fmt.Errorf("note proxies: %w", err)
	}
	if err := w.supersede(ctx, all); err != nil {
		return fmt.Errorf("remove notes of proxies: %w", err)
	}
	return nil
}

// supersede removes the notes of other replicas that say nothing more than this one's.
func (w *Writer) supersede(ctx context.Context, own left) error {
	values, err := w.Store.Read(ctx, leftPrefix)
	if err != nil {
		return err
	}
	mine, gone := "/"+url.PathEscape(w.Replica.ID)+"/", []store.Op{}
	for key, value := range values {
		var note left
		if strings.Contains(key, mine) || json.Unmarshal(value, &note) != nil || !own.has(note) {
			continue
		}
		gone = append(gone, store.Op{Key: key})
	}
	for batch := range store.Batches(gone) {
		if err := w.Store.Write(ctx, false, batch); err != nil {
			return err
		}
	}
	return nil
}

// byMesh are the keys of nodes and gateways in groups, one for each mesh.
func byMesh(seen map[api.Key]map[string]time.Time) [][]api.Key {
	groups := map[string][]api.Key{}
	for key := range seen {
		groups[leftBelow(key)] = append(groups[leftBelow(key)], key)
	}
	out := make([][]api.Key, 0, len(groups))
	for _, group := range groups {
		out = append(out, group)
	}
	return out
}

// leftBelow is the prefix of the notes on key's mesh.
func leftBelow(key api.Key) string { return leftPrefix + strings.TrimPrefix(below(key), rowPrefix) }

// Left returns when the proxies that replicas had when they left were connected last, of
// each node and gateway of the key's mesh, or of all with the zero key. It knows at least
// what was written before the rows that Mesh returned last: a proxy that a replica ended
// is in one or the other. Nothing of it is to be changed.
func (r *Reader) Left(ctx context.Context, key api.Key) (map[api.Key]map[string]time.Time, error) {
	prefix := rowPrefix
	if key != (api.Key{}) {
		prefix = below(key)
	}
	x, err := r.shared(ctx, prefix, "", func(place) bool { return true })
	if err != nil {
		return nil, err
	}
	return x.left, x.leftErr
}

// decodeLeft makes one of all notes.
func decodeLeft(values map[string][]byte) (map[api.Key]map[string]time.Time, error) {
	all := left{}
	for key, value := range values {
		var note left
		if err := json.Unmarshal(value, &note); err != nil {
			return nil, fmt.Errorf("decode note of proxies %s: %w", key, err)
		}
		for client, proxies := range note {
			for proxy, at := range proxies {
				all.add(client, proxy, at)
			}
		}
	}
	out := make(map[api.Key]map[string]time.Time, len(all))
	for client, proxies := range all {
		key, err := api.ParseKey(client)
		if err != nil {
			return nil, fmt.Errorf("decode note of proxies: %w", err)
		}
		out[key] = make(map[string]time.Time, len(proxies))
		for proxy, at := range proxies {
			out[key][proxy] = time.Unix(at, 0)
		}
	}
	return out, nil
}
