package share

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/store"
)

// Tail is where everything of this package is in the store: service/ram/<account>/share/<id>,
// and service/ram/organization/… for what is the organization's.
const Tail = "service/ram/"

// scope is that of an account's shares. Whoever accepts an invitation writes there
// too: a share changes under one lock, whoever changes it.
func scope(owner string) store.Scope { return store.HeadedScope("ram", owner) }

func shareTail(owner, id string) string { return scope(owner).Tail("share", id) }

func shareType() store.Type {
	return store.Type{Name: "resourceShare", Schema: 1, Members: []string{
		"id", "owner", "name", "external", "retain", "created", "updated", "deleted", "tags", "permitted", "meshes", "principals", "invitations",
	}}
}

// share is the body of a share's record.
type share struct {
	ID    string `json:"id"`
	Owner string `json:"owner"` // account
	Name  string `json:"name"`
	// External says that accounts outside the organization may be principals.
	External bool `json:"external"`
	// Retain says that accounts that leave the organization keep what they have.
	Retain      bool         `json:"retain,omitempty"`
	Created     time.Time    `json:"created"`
	Updated     time.Time    `json:"updated"`
	Deleted     time.Time    `json:"deleted,omitzero"`
	Tags        []ramapi.Tag `json:"tags,omitempty"`
	Permitted   bool         `json:"permitted"` // the permission is associated
	Meshes      []entity     `json:"meshes,omitempty"`
	Principals  []entity     `json:"principals,omitempty"`
	Invitations []invitation `json:"invitations,omitempty"`
}

// entity is what is associated with a share: a mesh or a principal.
type entity struct {
	ID      string    `json:"id"`            // ARN of the mesh or group of accounts, or account
	UID     string    `json:"uid,omitempty"` // of the mesh
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// External is a principal that was outside the organization when it came.
	External bool                                  `json:"external,omitempty"`
	Status   ramapi.ResourceShareAssociationStatus `json:"status"`
	Message  string                                `json:"message,omitempty"`
}

// invitation asks an account outside the organization to join.
type invitation struct {
	ID      string                               `json:"id"`
	Account string                               `json:"account"`
	Sent    time.Time                            `json:"sent"`
	Status  ramapi.ResourceShareInvitationStatus `json:"status"`
}

// Statuses by their short names.
const (
	associated    = ramapi.ResourceShareAssociationStatusAssociated
	associating   = ramapi.ResourceShareAssociationStatusAssociating
	disassociated = ramapi.ResourceShareAssociationStatusDisassociated
	failed        = ramapi.ResourceShareAssociationStatusFailed

	pending  = ramapi.ResourceShareInvitationStatusPending
	accepted = ramapi.ResourceShareInvitationStatusAccepted
	rejected = ramapi.ResourceShareInvitationStatusRejected
	expired  = ramapi.ResourceShareInvitationStatusExpired
)

// over says that the entity has ended, so that it may come again.
func (e entity) over() bool { return e.Status == disassociated || e.Status == failed }

func (x *share) deleted() bool { return !x.Deleted.IsZero() }

// find is the entity of that id which is not over.
func find(list []entity, id string) *entity {
	for i := range list {
		if list[i].ID == id && !list[i].over() {
			return &list[i]
		}
	}
	return nil
}

// at is the share as it is at a time: invitations expire, and what ended long ago is
// forgotten. It is for a copy that may be changed.
func (x *share) at(now time.Time) *share {
	for i := range x.Invitations {
		v := &x.Invitations[i]
		if v.Status != pending || now.Sub(v.Sent) < invitationLasts {
			continue
		}
		v.Status = expired
		if p := find(x.Principals, v.Account); p != nil && p.Status == associating {
			p.Status, p.Updated, p.Message = failed, v.Sent.Add(invitationLasts), "The invitation expired."
		}
	}
	x.Meshes, x.Principals = recent(x.Meshes, now), recent(x.Principals, now)
	kept := x.Invitations[:0:0]
	for _, v := range x.Invitations {
		if v.Status == pending || now.Sub(v.Sent) < invitationLasts+remembers {
			kept = append(kept, v)
		}
	}
	x.Invitations = kept
	return x
}

func recent(list []entity, now time.Time) []entity {
	out := list[:0:0]
	for _, e := range list {
		if !e.over() || now.Sub(e.Updated) < remembers {
			out = append(out, e)
		}
	}
	return out
}

// read decodes a share's record; nil for a record that is none.
func read(r store.Record) (*share, error) {
	parts := strings.Split(strings.TrimPrefix(r.Key, Tail), "/")
	if len(parts) != 3 || parts[1] != "share" {
		return nil, nil
	}
	s := &share{}
	if err := json.Unmarshal(r.Body, s); err != nil {
		return nil, fmt.Errorf("read share %s: %w", r.Key, err)
	}
	return s, nil
}
