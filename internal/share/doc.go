// Package share is mesh sharing: the subset of AWS's Resource Access Manager (RAM)
// that lets an account open a mesh of its own to other accounts (SHARE-001).
//
// A share is one record of the account that owns it: the meshes in it, the
// principals that it is for, and the invitations that went out. A principal is an
// account, an organizational unit or the organization; what those two mean here is
// in organization.go. An account inside the organization has what is shared with it
// at once, where sharing within the organization is on; any other is sent an
// invitation and has it from when it accepts (SHARE-016).
//
// There are two readers. Service is the API, which reads and writes the store.
// Shares is what it comes to: who may do what in whose mesh, in memory, for whoever
// has to authorise a call or a proxy. The permission set is fixed (permission.go).
package share

import (
	"context"
	"log/slog"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

// Config is what Open needs; all of it but Mesh is required.
type Config struct {
	Store *store.Store
	Realm api.Realm
	// Management is the account that speaks for the organization: the first one of
	// the control plane, 12 digits.
	Management string
	// Mesh is the uid of a mesh, empty for one that does not exist or is not known
	// yet: a mesh that was made anew under its name is not shared by what shared the
	// old one. Nil compares nothing.
	Mesh func(api.Key) string
	// Account says whether an account exists: one that does not is no member of the
	// organization. Nil takes all for existing.
	Account func(ctx context.Context, id string) (bool, error)

	Log   *slog.Logger
	Now   func() time.Time
	NewID func() string
}

// Times of RAM.
const (
	// invitationLasts is how long an invitation can be accepted.
	invitationLasts = 7 * 24 * time.Hour
	// remembers is how long what has ended is still shown: a deleted share, and what
	// was taken out of one.
	remembers = 2 * time.Hour
	// settles is how long a write waits until this replica goes by it, at most.
	settles = time.Second
)

// Open reads all shares.
func Open(ctx context.Context, c Config) (*Shares, error) {
	s := &Shares{Config: c, changed: make(chan struct{}), moved: make(chan struct{})}
	records, revision, err := c.Store.Records(ctx, Tail)
	if err != nil {
		return nil, err
	}
	s.take(store.RecordBatch{Revision: revision, Reset: true, Records: records})
	return s, nil
}
