package iam

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Server does the operations of AWS's IAM on the accounts of the control plane.
type Server struct {
	keys      *Keys
	store     *store.Store
	partition string
	now       func() time.Time
	// Meshes tells how many meshes an account has, for its service-linked role
	// (IAM-030); nil means none.
	Meshes func(ctx context.Context, account string) (int, error)
}

// NewServer makes a Server over the keys, which others see as soon as it writes them.
func NewServer(k *Keys) *Server {
	return &Server{keys: k, store: k.config.Store, partition: k.config.Partition, now: k.config.Now}
}

// codeValidation is AWS's common code for inputs that are malformed in the query
// protocol.
const codeValidation = "ValidationError"

// nothing is the output of operations that have none.
type nothing = struct{}

// desk is an account's records for the time of one call.
type desk struct {
	*Server
	shelf
	ctx     context.Context
	call    *service.Call
	account string
	tx      *store.Tx // nil for a call that only reads
	wrote   bool
}

// reads makes an operation of a function that reads the store as it is now.
func reads[In, Out any](s *Server, run func(d *desk, in *In) (*Out, error)) service.Operation {
	return service.Read(func(ctx context.Context, c *service.Call, in *In) (*Out, error) {
		f := &fresh{ctx: ctx, store: s.store}
		out, err := run(&desk{Server: s, shelf: f, ctx: ctx, call: c, account: c.Principal.Account}, in)
		if f.err != nil {
			return nil, f.err
		}
		return out, err
	})
}

// writes makes an operation of a function that runs in a transaction on the account.
// When it returns, this replica decides by what was written.
func writes[In, Out any](s *Server, run func(d *desk, in *In) (*Out, error)) service.Operation {
	return writesIn(s, nil, run)
}

// seals is writes for a function that seals a secret. The scope of sealing is one for
// all accounts: who needs none does not wait for its turn.
func seals[In, Out any](s *Server, run func(d *desk, in *In) (*Out, error)) service.Operation {
	return writesIn(s, []store.Scope{seal.Scope()}, run)
}

func writesIn[In, Out any](s *Server, more []store.Scope, run func(d *desk, in *In) (*Out, error)) service.Operation {
	return service.Op(func(ctx context.Context, c *service.Call, in *In) (*Out, error) {
		var out *Out
		wrote := false
		account := c.Principal.Account
		revision, err := s.store.Update(ctx, append([]store.Scope{store.AccountScope(account)}, more...), func(tx *store.Tx) error {
			d := &desk{Server: s, shelf: tx, ctx: ctx, call: c, account: account, tx: tx}
			var err error
			if out, err = run(d, in); err != nil {
				return err
			}
			if wrote = d.wrote; wrote {
				c.Commit(tx, out)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if wrote {
			s.keys.directory.wait(ctx, revision)
		}
		return out, nil
	})
}

func (d *desk) put(t store.Type, tail string, body any) {
	d.wrote = true
	d.tx.PutRecord(t, tail, body)
}

func (d *desk) remove(t store.Type, tail string) {
	d.wrote = true
	d.tx.DeleteRecord(t, tail)
}

// ofTags are the condition keys of what has tags.
func ofTags(tags []tag) map[string][]string {
	return service.TagKeys(service.Pairs(tags, func(t tag) (key, value string) { return t.Key, t.Value }), "aws:resourcetag/", "iam:resourcetag/")
}

// requestTags are the condition keys of a request that gives tags.
func requestTags(tags []iamapi.Tag) map[string][]string {
	return service.RequestTags(service.Pairs(tags, func(t iamapi.Tag) (key, value string) { return t.Key, t.Value }))
}

// allow asks whether the call may be done on something of the account.
func (d *desk) allow(arn string, layers ...map[string][]string) error {
	return d.call.Allow(d.ctx, arn, service.Keys(layers...))
}

// allowNamed asks whether the call may be done on something that exists. A refusal
// shows it as the caller named it: not even its path tells that it is there.
func (d *desk) allowNamed(kind, path, name, asked string, layers ...map[string][]string) error {
	arn := d.arn(d.account, kind, path, name)
	err := d.allow(arn, layers...)
	if refusal, ok := errors.AsType[*api.Error](err); ok && arn != d.call.Principal.ARN {
		const before = " on resource: "
		shown := strings.Replace(refusal.Message, before+arn, before+d.arn(d.account, kind, "/", asked), 1)
		return &api.Error{Code: refusal.Code, Message: shown}
	}
	return err
}

// allowList asks whether the caller may list things of a kind below a path.
func (d *desk) allowList(kind, pathPrefix string) error {
	return d.call.Allow(d.ctx, d.arn(d.account, kind, pathPrefix, ""), nil)
}

// allowNew asks whether something may be made, and with those tags.
func (d *desk) allowNew(arn, tagAction string, tags []iamapi.Tag, layers ...map[string][]string) error {
	keys := service.Keys(append(layers, requestTags(tags))...)
	if err := d.call.Allow(d.ctx, arn, keys); err != nil || len(tags) == 0 {
		return err
	}
	return d.call.AllowAction(d.ctx, tagAction, arn, keys)
}

// stamp is now as it is stored.
func (d *desk) stamp() time.Time { return d.now().UTC().Truncate(time.Second) }

func timestamp(t time.Time) *api.Timestamp {
	if t.IsZero() {
		return nil
	}
	return &api.Timestamp{Time: t}
}

// page cuts a list, sorted by a key that is each item's own, at MaxItems behind a
// Marker.
type page struct {
	Truncated *bool
	Marker    *string
}

const pageSize = 100 // where MaxItems is not given

func cut[T any](items []T, key func(T) string, marker string, most *int64) ([]T, page, error) {
	slices.SortStableFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	items, next, ok := service.Page(items, key, &marker, most, pageSize)
	if !ok {
		return nil, page{}, api.Errorf(codeValidation, "Invalid Marker: it is not one that a list gave out.")
	}
	if items == nil {
		items = []T{}
	}
	return items, page{Truncated: new(next != nil), Marker: next}, nil
}

// absent, taken and conflict are AWS's sentences.
func absent(format string, args ...any) error {
	return api.Errorf(iamapi.CodeNoSuchEntity, format, args...)
}

func taken(format string, args ...any) error {
	return api.Errorf(iamapi.CodeEntityAlreadyExists, format, args...)
}

func conflict(format string, args ...any) error {
	return api.Errorf(iamapi.CodeDeleteConflict, format, args...)
}

func exceeded(quota string, limit int) error {
	return api.Errorf(iamapi.CodeLimitExceeded, "Cannot exceed quota for %s: %d", quota, limit)
}
