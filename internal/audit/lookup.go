package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/trailapi"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/service"
)

// mostResults is how many events a page has at most, and by default.
const mostResults = 50

// Service is CloudTrail, as far as it looks up events. sources are asked for the
// newest events; their answers are put together.
func (l *Lookups) Service() (*service.Service, error) {
	return service.New("cloudtrail", "cloudtrail", map[string]service.Operation{
		"LookupEvents": service.Read(l.lookup),
	})
}

// query is a lookup, as replicas ask each other.
type query struct {
	Account string `json:"account"`
	From    int64  `json:"from,omitempty"` // microseconds, included
	To      int64  `json:"to,omitempty"`   // 0: no bound
	// At and ID are of the event that all others are older than; At 0: of none.
	At    int64  `json:"at,omitempty"`
	ID    string `json:"id,omitempty"`
	Limit int    `json:"limit"`
	// Attribute is which member must have the value; empty: any event.
	Attribute trailapi.LookupAttributeKey `json:"attribute,omitempty"`
	Value     string                      `json:"value,omitempty"`
}

// token is where a page ended, and of which lookup it was one.
type token struct {
	At   int64  `json:"t"`
	ID   string `json:"i"`
	Of   string `json:"o"` // the lookup's fingerprint
	Last int64  `json:"l"` // no event is newer: what comes while pages are turned is in none
}

// fingerprint tells lookups apart, whatever page of them is asked for.
func fingerprint(account string, in *trailapi.LookupEventsRequest) string {
	of := *in
	of.NextToken, of.MaxResults = nil, nil
	sum := sha256.Sum256(append(marshal(of), account...))
	return hex.EncodeToString(sum[:8])
}

func (l *Lookups) lookup(ctx context.Context, c *service.Call, in *trailapi.LookupEventsRequest) (*trailapi.LookupEventsResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	q, err := l.query(c.Principal.Account, in)
	if err != nil {
		return nil, err
	}
	if in.EventCategory != "" { // there are no insights
		return &trailapi.LookupEventsResponse{Events: []trailapi.Event{}}, nil
	}
	limit := q.Limit
	q.Limit++ // whether there are more
	found, err := l.all(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &trailapi.LookupEventsResponse{Events: []trailapi.Event{}}
	next := token{Of: fingerprint(c.Principal.Account, in), Last: q.To}
	switch {
	case len(found.Entries) > limit:
		found.Entries = found.Entries[:limit]
		last := found.Entries[limit-1]
		next.At, next.ID = last.At, last.ID
	case found.Until > 0:
		next.At, next.ID = found.Until+1, "" // what is at that time is looked at yet
	}
	for _, e := range found.Entries {
		shown, err := shown(e)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, shown)
	}
	if next.At > 0 {
		out.NextToken = service.Token(string(marshal(next)))
	}
	return out, nil
}

// query reads what is asked for.
func (l *Lookups) query(account string, in *trailapi.LookupEventsRequest) (query, error) {
	q := query{Account: account, Limit: mostResults, To: l.Now().UnixMicro()}
	if n := in.MaxResults; n != nil {
		if *n < 1 || *n > mostResults {
			return q, api.Errorf(trailapi.CodeInvalidMaxResults, "A value is not valid for MaxResults: it is a number from 1 to %d.", mostResults)
		}
		q.Limit = int(*n)
	}
	if in.StartTime != nil {
		q.From = in.StartTime.UnixMicro()
	}
	if in.EndTime != nil {
		// A time is to the second: all that happened in it is meant.
		q.To = min(q.To, in.EndTime.Add(time.Second-time.Microsecond).UnixMicro())
		if in.StartTime != nil && in.EndTime.Before(in.StartTime.Time) {
			return q, api.Errorf(trailapi.CodeInvalidTimeRange, "The start time is after the end time.")
		}
	}
	switch len(in.LookupAttributes) {
	case 0:
	case 1:
		a := in.LookupAttributes[0]
		if a.AttributeValue == "" || len(a.AttributeValue) > 2000 {
			return q, api.Errorf(trailapi.CodeInvalidLookupAttributes, "The value of the lookup attribute %s has from 1 to 2000 characters.", a.AttributeKey)
		}
		q.Attribute, q.Value = a.AttributeKey, a.AttributeValue
	default:
		return q, api.Errorf(trailapi.CodeInvalidLookupAttributes, "You can only use a single lookup attribute, and there are %d.", len(in.LookupAttributes))
	}
	if in.NextToken == nil {
		return q, nil
	}
	var at token
	text, ok := service.After(in.NextToken)
	if !ok || json.Unmarshal([]byte(text), &at) != nil || at.At <= 0 || at.Of != fingerprint(account, in) {
		return q, api.Errorf(trailapi.CodeInvalidNextToken, "The token is not of an answer to this request: a page is asked for with the same parameters as the first one.")
	}
	q.At, q.ID, q.To = at.At, at.ID, at.Last
	return q, nil
}

// scan is the query for the segments.
func (q query) scan(budget int64) segment.Query {
	s := segment.Query{Account: q.Account, From: q.From, To: q.To, Limit: q.Limit, Budget: budget}
	if q.At > 0 {
		s.Before = segment.Entry{At: q.At, ID: q.ID}
	}
	if q.Attribute != "" {
		s.Match = q.match
	}
	return s
}

// match says whether the event has the attribute.
func (q query) match(e segment.Entry) bool {
	if q.Attribute == trailapi.LookupAttributeKeyEventId {
		return e.ID == q.Value
	}
	switch q.Attribute {
	case trailapi.LookupAttributeKeyEventName, trailapi.LookupAttributeKeyEventSource, trailapi.LookupAttributeKeyAccessKeyId:
		// They stand in the event as they are: most events need not be decoded.
		if !bytes.Contains(e.Body, marshal(q.Value)) {
			return false
		}
	}
	var b brief
	if json.Unmarshal(e.Body, &b) != nil {
		return false
	}
	switch q.Attribute {
	case trailapi.LookupAttributeKeyEventName:
		return b.Name == q.Value
	case trailapi.LookupAttributeKeyEventSource:
		return b.Source == q.Value
	case trailapi.LookupAttributeKeyAccessKeyId:
		return b.Identity.AccessKeyID == q.Value
	case trailapi.LookupAttributeKeyUsername:
		return b.Identity.name() == q.Value
	case trailapi.LookupAttributeKeyReadOnly:
		return strings.EqualFold(q.Value, readOnly(b.ReadOnly))
	case trailapi.LookupAttributeKeyResourceType:
		return slices.ContainsFunc(b.resources(), func(r resource) bool { return r.Type == q.Value })
	case trailapi.LookupAttributeKeyResourceName:
		return slices.ContainsFunc(b.resources(), func(r resource) bool { return r.ARN == q.Value || resourceName(r.ARN) == q.Value })
	}
	return false
}

// brief is what lookups read of an event.
type brief struct {
	Identity  identity   `json:"userIdentity"`
	Source    string     `json:"eventSource"`
	Name      string     `json:"eventName"`
	ReadOnly  bool       `json:"readOnly"`
	Resources []resource `json:"resources"`
	Details   *details   `json:"serviceEventDetails"`
}

// resources are what the event is about: for a connection, the node.
func (b brief) resources() []resource {
	if b.Details == nil || b.Details.Node == "" {
		return b.Resources
	}
	return append(b.Resources, resource{ARN: b.Details.Node, Type: resourceType(b.Details.Node)})
}

func readOnly(yes bool) string {
	if yes {
		return "true"
	}
	return "false"
}

// shown is the event as a lookup shows it.
func shown(e segment.Entry) (trailapi.Event, error) {
	var b brief
	if err := json.Unmarshal(e.Body, &b); err != nil {
		return trailapi.Event{}, err
	}
	whole, read := string(e.Body), readOnly(b.ReadOnly)
	out := trailapi.Event{
		CloudTrailEvent: &whole, EventID: &e.ID, EventName: &b.Name, EventSource: &b.Source, ReadOnly: &read,
		EventTime: &api.Timestamp{Time: time.UnixMicro(e.At).UTC().Truncate(time.Second)}, Resources: []trailapi.Resource{},
	}
	if id := b.Identity.AccessKeyID; id != "" {
		out.AccessKeyID = &id
	}
	if name := b.Identity.name(); name != "" {
		out.Username = &name
	}
	for _, r := range b.resources() {
		of := trailapi.Resource{ResourceName: new(resourceName(r.ARN))}
		if r.Type != "" {
			of.ResourceType = new(r.Type)
		}
		out.Resources = append(out.Resources, of)
	}
	return out, nil
}
