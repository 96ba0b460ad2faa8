package rest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Values of status.status in answers.
const (
	statusActive  = "ACTIVE"
	statusDeleted = "DELETED"
)

// addressed is the key that a call's names address, if the caller may run the
// operation on it.
func (s *Server) addressed(row api.KindRow, c *call) (api.Key, error) {
	owner := text(c.doc, "meshOwner")
	if owner == "" {
		owner = c.principal.Account
	}
	key := api.Key{Owner: owner, Mesh: text(c.doc, "meshName"), Kind: row.Kind, Name: text(c.doc, row.Name)}
	if row.Nested() {
		parent, _ := row.Parent.Row()
		key.Parent = text(c.doc, parent.Name)
	}
	if _, named := c.doc[row.Name]; named {
		if err := checkName(row.Name, key.Name); err != nil {
			return api.Key{}, err
		}
	}
	return key, s.allow(c, key)
}

func text(doc map[string]any, member string) string {
	s, _ := doc[member].(string)
	return s
}

// allow asks whether the caller's account may run the operation in the mesh at all;
// authorize asks its policies.
func (s *Server) allow(c *call, key api.Key) error {
	c.key = key
	if key.Owner == c.principal.Account || s.Shares != nil && s.Shares.Shared(c.principal.Account, key.MeshKey(), c.action) {
		return nil
	}
	return auth.Allow(c.principal, c.action, s.Realm.ARN(key, key.Owner))
}

// data is the answer that describes a resource: names, metadata, spec, status
// (API-006). The spec is what was sent. It is most of what is answered, so it is
// written by hand: the spec, which is JSON already, is not looked at again.
func (s *Server) data(row api.KindRow, r *api.Resource, status string) (json.RawMessage, error) {
	created, err := seconds(r.Created).MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	updated, err := seconds(r.Updated).MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	out, err := api.AppendDocument(make([]byte, 0, len(r.Document)+768), s.names(row, r.Key))
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	out = append(out[:len(out)-1], `,"metadata":{"arn":`...) // there are always some names
	out = api.AppendString(out, s.Realm.ARN(r.Key, r.Owner))
	out = append(append(out, `,"createdAt":`...), created...)
	out = append(append(out, `,"lastUpdatedAt":`...), updated...)
	out = api.AppendString(append(out, `,"meshOwner":`...), r.Key.Owner)
	out = api.AppendString(append(out, `,"resourceOwner":`...), r.Owner)
	out = api.AppendString(append(out, `,"uid":`...), r.UID)
	out = strconv.AppendInt(append(out, `,"version":`...), r.Version, 10)
	out = append(append(out, `},"spec":`...), r.Document...)
	out = append(append(append(out, `,"status":{"status":"`...), status...), `"}}`...)
	return out, nil
}

// names are the members of an answer that name the resource.
func (s *Server) names(row api.KindRow, key api.Key) map[string]any {
	out := map[string]any{"meshName": key.Mesh, row.Name: key.Name}
	if row.Nested() {
		parent, _ := row.Parent.Row()
		out[parent.Name] = key.Parent
	}
	return out
}

// write runs a verb in a transaction on the key's mesh and answers with what fn
// made. A client token makes it idempotent: a repeat with the same input gets
// the first answer, another input is a conflict (API-031).
func (s *Server) write(ctx context.Context, c *call, key api.Key, fn func(tx *store.Tx) (any, error)) (any, error) {
	token, err := s.token(c)
	if err != nil {
		return nil, err
	}
	var answer any
	_, err = s.Store.Update(ctx, s.scopes(key), func(tx *store.Tx) error {
		if err := s.authorizeWrite(ctx, c, tx, key); err != nil {
			return err
		}
		var err error
		if answer, err = fn(tx); err != nil {
			return err
		}
		// Encoded once, for the caller, for its repeats, and for the event.
		text, err := encode(answer)
		if err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		answer = json.RawMessage(text)
		if s.Audit != nil {
			tx.Outbox(s.Audit.Event(s.record(c, answer, nil)))
		}
		if token != nil {
			token.Result = text
			tx.Claim(*token)
		}
		return nil
	})
	c.committed = err == nil
	var taken *store.TokenTaken
	var refusal *api.Error
	switch {
	case err == nil:
		return answer, nil
	case errors.As(err, &taken):
		return replay(token, &taken.Token)
	case token != nil && errors.As(err, &refusal) && refusal.Code != api.CodeServiceUnavailable && refusal.Code != api.CodeAccessDenied && refusal.Code != api.CodeForbidden:
		// The rules refused a repeat (it exists already, say) before the
		// transaction could see the token. Who may not do it (any more) is not told the
		// answer to who did. A store that did not answer is not asked
		// once more: the write has had its time.
		earlier, terr := s.Store.Token(ctx, token.Key)
		if terr != nil {
			return nil, terr
		}
		if earlier != nil {
			return replay(token, earlier)
		}
	}
	return nil, err
}

func replay(now, earlier *store.Token) (any, error) {
	if now.Fingerprint != earlier.Fingerprint {
		return nil, api.Errorf(api.CodeConflict, "The client token was used before with another input: use a new token for a new request.")
	}
	return earlier.Result, nil
}

// token is the idempotency record of a call; nil when it has no client token.
// Its key is made of the account and the token's text, so accounts never meet;
// its fingerprint of the operation and the input, so that a token used again
// with another of either is a conflict.
func (s *Server) token(c *call) (*store.Token, error) {
	name := text(c.doc, "clientToken")
	if name == "" {
		return nil, nil
	}
	input := make(map[string]any, len(c.doc))
	for k, v := range c.doc {
		if k != "clientToken" {
			input[k] = v
		}
	}
	// As package json writes it: other releases, which have tokens in the same store, do
	// so, and with HTML's escapes.
	body, err := api.AppendDocument(append(make([]byte, 0, 1024), c.op+"\n"...), input)
	if err == nil && bytes.ContainsAny(body, "<>&") {
		body, err = json.Marshal(input)
		body = append([]byte(c.op+"\n"), body...)
	}
	if err != nil {
		return nil, fmt.Errorf("encode input: %w", err)
	}
	sum := sha256.Sum256(body)
	key := sha256.Sum256([]byte(c.principal.Account + "\n" + name))
	return &store.Token{Key: hex.EncodeToString(key[:]), Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// notOwned is the refusal of a change of what does not exist. A mesh is changed and
// deleted by its name alone, and a name that means one which is shared with the caller is
// its owner's to change (MESH-010).
func (s *Server) notOwned(c *call, r mesh.Reader, key api.Key) error {
	if key.Kind == api.KindMesh && s.Shares != nil {
		for _, shared := range s.Shares.Meshes(c.principal.Account) {
			if shared.Mesh == key.Mesh {
				return auth.Allow(c.principal, c.action, s.Realm.ARN(shared, shared.Owner))
			}
		}
	}
	return missing(r, key)
}

// missing is the refusal of a name that does not exist.
func missing(r mesh.Reader, key api.Key) error { return mesh.Missing(r, key) }

// single gives a bare reader for texts of refusals outside a transaction.
type single func(api.Key) *api.Resource

func (f single) Get(k api.Key) *api.Resource                { return f(k) }
func (f single) List(_ api.Kind, _ api.Key) []*api.Resource { return nil }

// after is the present, but never before the resource's last update: replicas'
// clocks differ.
func (s *Server) after(r *api.Resource) time.Time {
	if now := s.Now(); now.After(r.Updated) {
		return now
	}
	return r.Updated
}
