package rest

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"

	"github.com/evermesh/evermesh/internal/api"
)

// defaultLimit is the page size of a list without limit, and the largest one
// that the model allows (API-030).
const defaultLimit = 100

// list answers one page of the resources of a kind, sorted by name. A page's
// token is the last key of the page before: a list that changes meanwhile
// neither repeats nor skips what stays.
func (s *Server) list(row api.KindRow) handler {
	return func(ctx context.Context, c *call) (any, error) {
		key, err := s.addressed(row, c)
		if err != nil {
			return nil, err
		}
		after, err := parsePageToken(c.doc)
		if err != nil {
			return nil, err
		}
		if last, err := api.ParseKey(after); after != "" && (err != nil || last.Name == "" || last.String() != after) {
			return nil, strangeToken() // of which list it is, the store looks at
		}
		if parent, ok := key.ParentKey(); ok {
			found, err := s.Store.Get(ctx, parent)
			if err != nil {
				return nil, err
			}
			if err := s.authorize(ctx, c, key, found); err != nil {
				return nil, err
			}
			if found == nil {
				return nil, s.absent(ctx, parent)
			}
		} else if err := s.authorize(ctx, c, key, nil); err != nil {
			return nil, err
		}
		items, more, err := s.page(ctx, row.Kind, key, after, limitOf(c.doc))
		if err != nil {
			return nil, err
		}
		refs := make([]map[string]any, len(items))
		for i, r := range items {
			refs[i] = s.ref(row, r)
		}
		out := map[string]any{row.List: refs}
		if more {
			out["nextToken"] = pageToken(items[len(items)-1].Key.String())
		}
		return out, nil
	}
}

// page reads a page of a list. To the meshes of an account, those come that are shared
// with it (SHARE-024).
func (s *Server) page(ctx context.Context, kind api.Kind, key api.Key, after string, limit int) (items []*api.Resource, more bool, err error) {
	if kind != api.KindMesh || s.Shares == nil {
		return s.Store.List(ctx, kind, key, after, limit)
	}
	last, _ := api.ParseKey(after) // list has read it
	if last.Owner == key.Owner || after == "" {
		items, more, err = s.Store.List(ctx, kind, key, after, limit)
		if err != nil || more {
			return items, more, err
		}
		last = api.Key{}
	} else if last.Kind != api.KindMesh {
		return nil, false, strangeToken()
	}
	for _, shared := range s.Shares.Meshes(key.Owner) {
		if cmp.Or(cmp.Compare(shared.Owner, last.Owner), cmp.Compare(shared.Mesh, last.Mesh)) <= 0 {
			continue
		}
		if len(items) == limit {
			return items, true, nil
		}
		found, err := s.Store.Get(ctx, shared)
		if err != nil {
			return nil, false, err
		}
		if found != nil {
			items = append(items, found)
		}
	}
	return items, false, nil
}

// ref is a resource in a list.
func (s *Server) ref(row api.KindRow, r *api.Resource) map[string]any {
	out := s.names(row, r.Key)
	out["arn"] = s.Realm.ARN(r.Key, r.Owner)
	out["createdAt"] = seconds(r.Created)
	out["lastUpdatedAt"] = seconds(r.Updated)
	out["meshOwner"] = r.Key.Owner
	out["resourceOwner"] = r.Owner
	out["version"] = r.Version
	return out
}

func limitOf(doc map[string]any) int {
	if n, ok := doc["limit"].(json.Number); ok {
		if v, err := n.Int64(); err == nil {
			return int(v)
		}
	}
	return defaultLimit
}

func pageToken(after string) string { return base64.RawURLEncoding.EncodeToString([]byte(after)) }

// parsePageToken returns what pageToken was given, "" for the first page.
func parsePageToken(doc map[string]any) (string, error) {
	token := text(doc, "nextToken")
	plain, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || pageToken(string(plain)) != token {
		return "", api.Errorf(api.CodeBadRequest, "The nextToken is not one that this service gave out: repeat the list without it.")
	}
	return string(plain), nil
}

// strangeToken is the refusal of a token that says what no page of the list did.
func strangeToken() error {
	return api.Errorf(api.CodeBadRequest, "The nextToken is not one that this list gave out: repeat the list without it.")
}
