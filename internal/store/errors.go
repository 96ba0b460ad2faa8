package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/api"
)

// What etcd says, by text: the in-process client and the remote one wrap the
// same texts in different types.
const (
	textNoSpace       = "database space exceeded"
	textCompacted     = "required revision has been compacted"
	textLeaseNotFound = "requested lease not found"
	textTooLarge      = "request is too large"
	textTooLong       = "message larger than max"
)

func says(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

func unavailable(format string, args ...any) *api.Error {
	return api.Errorf(api.CodeServiceUnavailable, format, args...)
}

// failure is what a failed operation is to the caller. A caller who gave up
// gets its own context's error; a store that cannot serve is unavailable; what
// is left is a fault of the program.
func (s *Store) failure(caller context.Context, operation string, err error) error {
	var known *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case caller.Err() != nil:
		return fmt.Errorf("%s: %w", operation, caller.Err())
	case says(err, textNoSpace):
		s.full.Store(true)
		return unavailable("The store is full: remove data, or give etcd a larger quota, and compact, defragment and disarm its alarm.")
	case says(err, textTooLarge), says(err, textTooLong):
		return api.Errorf(api.CodeBadRequest, "The request is larger than the store takes: raise --max-request-bytes of the external etcd, or make the resource smaller.")
	case errors.Is(err, context.DeadlineExceeded):
		return unavailable("The store did not answer within %v: try again.", s.options.Timeout)
	case errors.Is(err, context.Canceled):
		return unavailable("The store is closing.")
	}
	code := status.Code(err)
	if of, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		code = of.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return unavailable("The store cannot serve now (%v): try again.", err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}
