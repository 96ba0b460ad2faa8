package audit

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	eventVersion = "1.08"
	typeCall     = "AwsApiCall"
	typeEvent    = "AwsServiceEvent"
	category     = "Management"
	// maxDocument bounds a request's or a response's document in an event, in
	// bytes, and maxText a text of who called; CloudTrail bounds them alike.
	maxDocument = 100 << 10
	maxText     = 1024
)

// event is a record as CloudTrail has it, version 1.08.
type event struct {
	Version       string     `json:"eventVersion"`
	Identity      identity   `json:"userIdentity"`
	Time          string     `json:"eventTime"`
	Source        string     `json:"eventSource"`
	Name          string     `json:"eventName"`
	Region        string     `json:"awsRegion"`
	SourceIP      string     `json:"sourceIPAddress"`
	UserAgent     string     `json:"userAgent"`
	ErrorCode     string     `json:"errorCode,omitempty"`
	ErrorMessage  string     `json:"errorMessage,omitempty"`
	Call          *callParts `json:",omitempty"` // its members are the event's: see encode
	ID            string     `json:"eventID"`
	ReadOnly      bool       `json:"readOnly"`
	Resources     []resource `json:"resources,omitempty"`
	Type          string     `json:"eventType"`
	Management    bool       `json:"managementEvent"`
	Recipient     string     `json:"recipientAccountId"`
	SharedEventID string     `json:"sharedEventID,omitempty"`
	Details       *details   `json:"serviceEventDetails,omitempty"`
	Category      string     `json:"eventCategory"`
}

// callParts are the members that only events of calls have, null also where there
// is nothing.
type callParts struct {
	Request   json.RawMessage `json:"requestParameters"`
	Response  json.RawMessage `json:"responseElements"`
	RequestID string          `json:"requestID"`
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
		Call: &callParts{Request: document(r.Request), Response: document(r.Response), RequestID: r.ID},
		ID:   t.NewID(), ReadOnly: r.ReadOnly, Type: typeCall, Management: true, Category: category,
	}
	var owners []string
	for _, arn := range r.Resources {
		owner := part(arn, 4)
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

// encode is the event's JSON, in one line.
func (e event) encode() []byte {
	call := e.Call
	e.Call = nil
	text := marshal(e)
	if call == nil {
		return text
	}
	// They stand where CloudTrail has them, before the event's id.
	inner := bytes.TrimSuffix(bytes.TrimPrefix(marshal(call), []byte("{")), []byte("}"))
	at := bytes.Index(text, []byte(`"eventID":`+string(marshal(e.ID))))
	return bytes.Join([][]byte{text[:at], inner, []byte(","), text[at:]}, nil)
}

// marshal is JSON without HTML's escapes. What is marshalled here always can be.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return []byte("null")
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// document is a request or a response as it is kept: null for none.
func document(v any) json.RawMessage {
	switch d := v.(type) {
	case nil:
		return json.RawMessage("null")
	case map[string]any:
		if len(d) == 0 {
			return json.RawMessage("null")
		}
	}
	text := marshal(v)
	if len(text) > maxDocument {
		return json.RawMessage(`{"omitted":"It is larger than an event keeps."}`)
	}
	return text
}

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
