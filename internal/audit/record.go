package audit

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	eventVersion = "1.08"
	typeCall     = "AwsApiCall"
	typeEvent    = "AwsServiceEvent"
	category     = "Management"
	// maxEvent bounds an event in bytes: one that is larger loses its request and its
	// response. maxText bounds a text of who called. CloudTrail has bounds alike.
	maxEvent = 128 << 10
	maxText  = 1024
	// maxRefused bounds the event of a refusal.
	maxRefused = 4 << 10
)

// event is a record as CloudTrail has it, version 1.08; encode writes it.
type event struct {
	Version, Time, Source, Name, Region, SourceIP, UserAgent string
	Identity                                                 identity
	ErrorCode, ErrorMessage                                  string // of a refusal
	// Request and Response are a call's documents, null for none; nil in an event that
	// is no call's.
	Request, Response    any
	RequestID, ID        string
	ReadOnly, Management bool
	Resources            []resource
	Type, Category       string
	// Recipient is the account whose event it is; SharedEventID is the same in those of
	// several accounts.
	Recipient, SharedEventID string
	Details                  any // of an event that is no call's
}

// resource is something that the call was about.
type resource struct {
	ARN       string `json:"ARN"`
	AccountID string `json:"accountId,omitempty"`
	Type      string `json:"type,omitempty"`
}

// entries are the events of a call: the caller's account's, and one of each other
// account that owns a resource it was about.
func (t *Trail) entries(r service.Record) []segment.Entry {
	e := event{
		Version: eventVersion, Identity: identityOf(r.Principal), Time: stamp(r.At), Source: r.Source, Name: r.Operation,
		Region: t.Region, SourceIP: clipped(r.SourceIP), UserAgent: clipped(r.UserAgent), ErrorCode: r.Code, ErrorMessage: clipped(r.Message),
		Request: document(r.Request), Response: document(r.Response), RequestID: r.ID,
		ID: t.NewID(), ReadOnly: r.ReadOnly, Type: typeCall, Management: true, Category: category,
	}
	var owners []string
	for _, arn := range r.Resources {
		named, _ := api.ParseResourceName(arn)
		owner := named.Account
		e.Resources = append(e.Resources, resource{ARN: arn, AccountID: owner, Type: resourceType(arn)})
		if digits(owner) && owner != r.Principal.Account {
			owners = append(owners, owner)
		}
	}
	account := r.Principal.Account
	if account == "" { // a caller without one, such as a web identity
		if len(owners) == 0 {
			return nil
		}
		account, owners = owners[0], owners[1:]
	}
	return t.spread(e, r.At, account, stranger(r.Principal), owners)
}

// spread makes the entries of an event for the account and, under an id that they
// share, for each of the owners.
func (t *Trail) spread(e event, at time.Time, account string, known identity, owners []string) []segment.Entry {
	own := e
	own.Recipient = account
	if len(owners) == 0 {
		return []segment.Entry{own.entry(at)}
	}
	var out []segment.Entry
	seen := map[string]bool{account: true}
	for _, owner := range owners {
		if seen[owner] {
			continue
		}
		seen[owner] = true
		if own.SharedEventID == "" {
			own.SharedEventID = t.NewID()
		}
		copied := own
		copied.ID, copied.Recipient, copied.Identity = t.NewID(), owner, known
		copied.Identity.InvokedBy = e.Identity.InvokedBy
		copied.Resources = nil
		for _, r := range e.Resources {
			if r.AccountID == owner { // others' are not its business
				copied.Resources = append(copied.Resources, r)
			}
		}
		out = append(out, copied.entry(at))
	}
	return append([]segment.Entry{own.entry(at)}, out...)
}

func (e event) entry(at time.Time) segment.Entry {
	return segment.Entry{At: at.UnixMicro(), Account: e.Recipient, ID: e.ID, Body: e.encode()}
}

// null is a document that is not there.
const null = "null"

// document is a request or a response as it is kept: null for none.
func document(v any) any {
	if d, ok := v.(map[string]any); v == nil || ok && len(d) == 0 {
		return json.RawMessage(null)
	}
	return v
}

// omitted stands for a document in an event that would be too large.
func omitted(v any) any {
	if d, ok := v.(json.RawMessage); v == nil || ok && string(d) == null {
		return v
	}
	return map[string]string{"omitted": "It is larger than an event keeps."}
}

// marshal is JSON without HTML's escapes. What is marshalled here always can be.
func marshal(v any) []byte { return appended(nil, v) }

// stamp is a time as events have it, in seconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func clipped(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}

func digits(account string) bool {
	return len(account) == 12 && strings.Trim(account, "0123456789") == ""
}
