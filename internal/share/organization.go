package share

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// DefaultOrganization is the id of the organization where the operator gave none.
const DefaultOrganization = "o-evermeshorg"

// Organization says which accounts of a control plane belong together. Where the
// operator says nothing, all of them do, and there are no units.
type Organization struct {
	ID string `json:"id"` // o- and 10 to 32 of a-z and 0-9
	// Accounts are its members, beside the management account; absent, all accounts
	// of the control plane are.
	Accounts []string `json:"accounts,omitempty"`
	// Units are its organizational units: the accounts in each, by the unit's id,
	// which is ou-, 4 to 32 of a-z and 0-9, a dash, and 8 to 32 of them. Accounts of a
	// unit are members.
	Units map[string][]string `json:"units,omitempty"`
}

var (
	accountForm      = regexp.MustCompile(`^[0-9]{12}$`)
	organizationForm = regexp.MustCompile(`^o-[a-z0-9]{10,32}$`)
	unitForm         = regexp.MustCompile(`^ou-[0-9a-z]{4,32}-[0-9a-z]{8,32}$`)
)

// Check says what is wrong with it.
func (o Organization) Check() error {
	if !organizationForm.MatchString(o.ID) {
		return fmt.Errorf("organization: id %q: want o- and 10 to 32 of a-z and 0-9", o.ID)
	}
	for _, a := range o.Accounts {
		if !accountForm.MatchString(a) {
			return fmt.Errorf("organization: account %q: want 12 digits", a)
		}
	}
	for id, accounts := range o.Units {
		if !unitForm.MatchString(id) {
			return fmt.Errorf("organization: unit %q: want ou-, 4 to 32 of a-z and 0-9, a dash, and 8 to 32 of them", id)
		}
		for _, a := range accounts {
			if !accountForm.MatchString(a) {
				return fmt.Errorf("organization: unit %s: account %q: want 12 digits", id, a)
			}
		}
	}
	return nil
}

// has says whether an account is a member.
func (o Organization) has(account string) bool {
	if o.Accounts == nil || slices.Contains(o.Accounts, account) {
		return true
	}
	for _, unit := range o.Units {
		if slices.Contains(unit, account) {
			return true
		}
	}
	return false
}

// organizationScope is apart from the accounts', whose ids are digits.
func organizationScope() store.Scope { return store.HeadedScope("ram", "organization") }

func organizationTail() string { return organizationScope().Tail("members") }
func enabledTail() string      { return organizationScope().Tail("sharing") }

func organizationType() store.Type {
	return store.Type{Name: "organization", Schema: 1, Members: []string{"id", "accounts", "units"}}
}

func enabledType() store.Type {
	return store.Type{Name: "organizationSharing", Schema: 1, Members: []string{"enabled"}}
}

type enabledBody struct {
	Enabled bool `json:"enabled"`
}

// SetOrganization is the operator's word on which accounts belong together. It acts
// at once on every replica: an account that is a member no more loses what it had as
// one.
func SetOrganization(ctx context.Context, s *store.Store, o Organization) error {
	if err := o.Check(); err != nil {
		return err
	}
	_, err := s.Update(ctx, []store.Scope{organizationScope()}, func(tx *store.Tx) error {
		tx.PutRecord(organizationType(), organizationTail(), o)
		return nil
	})
	if err != nil {
		return fmt.Errorf("set organization: %w", err)
	}
	return nil
}

// ReadOrganization is what the operator said, or the default.
func ReadOrganization(ctx context.Context, s *store.Store) (Organization, error) {
	records, _, err := s.Records(ctx, organizationTail())
	if err != nil {
		return Organization{}, fmt.Errorf("read organization: %w", err)
	}
	o := Organization{ID: DefaultOrganization}
	for _, r := range records {
		if r.Key == organizationTail() {
			o = Organization{}
			if err := json.Unmarshal(r.Body, &o); err != nil {
				return o, fmt.Errorf("read organization: %w", err)
			}
		}
	}
	return o, nil
}

// together is what principals are understood by: the organization, and whether
// sharing within it is on.
type together struct {
	Organization
	partition  string
	management string
	enabled    bool
}

func (t together) arn() string {
	return "arn:" + t.partition + ":organizations::" + t.management + ":organization/" + t.ID
}

func (t together) unitARN(id string) string {
	return "arn:" + t.partition + ":organizations::" + t.management + ":ou/" + t.ID + "/" + id
}

// member says whether the account is in the organization, so that what is shared
// within it needs no invitation.
func (t together) member(account string) bool {
	return account == t.management || t.has(account)
}

// inside says whether sharing between the two accounts stays within the organization.
func (t together) inside(owner, account string) bool {
	return t.enabled && t.member(owner) && t.member(account)
}

// reaches says whether a principal of a share, as it is written there, is or holds
// the account.
func (t together) reaches(s *share, p entity, account string) bool {
	switch {
	case p.Status != associated || account == s.Owner:
		return false
	case p.ID == account:
		// Who accepted an invitation stays; who came as a member has to be one.
		return p.External || s.Retain || t.inside(s.Owner, account)
	case accountForm.MatchString(p.ID) || !t.enabled || !t.member(s.Owner):
		return false
	case p.ID == t.arn():
		return t.member(account)
	}
	for id, accounts := range t.Units {
		if p.ID == t.unitARN(id) {
			return slices.Contains(accounts, account)
		}
	}
	return false
}

// take learns a record of the organization.
func (t *together) take(key string, body json.RawMessage) error {
	switch key {
	case organizationTail():
		o := Organization{}
		if err := json.Unmarshal(body, &o); err != nil {
			return fmt.Errorf("read organization: %w", err)
		}
		t.Organization = o
	case enabledTail():
		var b enabledBody
		if err := json.Unmarshal(body, &b); err != nil {
			return fmt.Errorf("read organization: %w", err)
		}
		t.enabled = b.Enabled
	}
	return nil
}

// newTogether is the default.
func newTogether(realm api.Realm, management string) together {
	return together{Organization: Organization{ID: DefaultOrganization}, partition: realm.Partition, management: management}
}

// enable turns on sharing within the organization, for all of it (SHARE-016). Only its
// management account may.
func (s *Service) enable(ctx context.Context, c *service.Call, _ *ramapi.EnableSharingWithAWSOrganizationRequest) (*ramapi.EnableSharingWithAWSOrganizationResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if c.Principal.Account != s.Management {
		return nil, api.Errorf(ramapi.CodeOperationNotPermitted, "Unable to enable sharing with AWS Organizations. Received AccessDeniedException from AWSOrganizations with the following error message: You don't have permissions to access this resource.")
	}
	return write(ctx, s, c, organizationScope(), nil, func(tx *store.Tx) (*ramapi.EnableSharingWithAWSOrganizationResponse, error) {
		tx.PutRecord(enabledType(), enabledTail(), enabledBody{true})
		yes := true
		return &ramapi.EnableSharingWithAWSOrganizationResponse{ReturnValue: &yes}, nil
	})
}
