package audit

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// An event is encoded by hand, as every call waits for it; what is rare in it, and
// documents of calls, package json encodes. Members stand in CloudTrail's order.

// object is a JSON object that is being written.
type object []byte

func (o object) name(name string) object {
	if len(o) > 0 && o[len(o)-1] != '{' {
		o = append(o, ',')
	}
	return append(append(append(o, '"'), name...), '"', ':')
}

// text adds a member.
func (o object) text(name, value string) object { return quoted(o.name(name), value) }

// some adds a member if it is not empty.
func (o object) some(name, value string) object {
	if value == "" {
		return o
	}
	return o.text(name, value)
}

func (o object) truth(name string, value bool) object {
	return strconv.AppendBool(o.name(name), value)
}

// any adds a member that package json encodes.
func (o object) any(name string, value any) object {
	o = o.name(name)
	switch v := value.(type) {
	case json.RawMessage:
		return append(o, v...)
	case map[string]any:
		return o.document(v)
	}
	return append(o, marshal(value)...)
}

// document adds a call's input, as package json would: most members are texts, and
// the one that is large is JSON already.
func (o object) document(doc map[string]any) object {
	o = append(o, '{')
	for i, name := range slices.Sorted(maps.Keys(doc)) {
		if i > 0 {
			o = append(o, ',')
		}
		o = append(quoted(o, name), ':')
		value := doc[name]
		text, isText := value.(string)
		raw, _ := value.(json.RawMessage)
		switch {
		case isText:
			o = quoted(o, text)
		case len(raw) > 0 && bytes.IndexByte(raw, '\n') < 0: // an event is one line
			o = append(o, raw...)
		default:
			o = append(o, marshal(value)...)
		}
	}
	return append(o, '}')
}

// quoted adds a text in quotes.
func quoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(b, marshal(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func (i identity) encode(o object) object {
	o = append(o, '{')
	o = o.text("type", i.Type).some("principalId", i.PrincipalID).some("arn", i.ARN).some("accountId", i.AccountID)
	o = o.some("accessKeyId", i.AccessKeyID).some("userName", i.UserName).some("identityProvider", i.Provider)
	if i.SessionContext != nil {
		o = o.any("sessionContext", i.SessionContext)
	}
	return append(o.some("invokedBy", i.InvokedBy), '}')
}

// encode is the event's JSON, in one line.
func (e event) encode() []byte {
	text := e.line()
	if len(text) > maxEvent || e.ErrorCode != "" && len(text) > maxRefused {
		e.Request, e.Response = omitted(e.Request), omitted(e.Response)
		text = e.line()
	}
	return text
}

func (e event) line() []byte {
	size := 1024
	if raw, ok := e.Response.(json.RawMessage); ok {
		size += 2 * len(raw) // the request is about as large
	}
	o := append(make(object, 0, size), '{')
	o = e.Identity.encode(o.text("eventVersion", e.Version).name("userIdentity"))
	o = o.text("eventTime", e.Time).text("eventSource", e.Source).text("eventName", e.Name).text("awsRegion", e.Region)
	o = o.text("sourceIPAddress", e.SourceIP).text("userAgent", e.UserAgent).some("errorCode", e.ErrorCode).some("errorMessage", e.ErrorMessage)
	if e.Request != nil {
		o = o.any("requestParameters", e.Request).any("responseElements", e.Response).text("requestID", e.RequestID)
	}
	o = o.text("eventID", e.ID).truth("readOnly", e.ReadOnly)
	if len(e.Resources) > 0 {
		o = append(o.name("resources"), '[')
		for i, r := range e.Resources {
			if i > 0 {
				o = append(o, ',')
			}
			o = append(o, '{')
			o = append(o.text("ARN", r.ARN).some("accountId", r.AccountID).some("type", r.Type), '}')
		}
		o = append(o, ']')
	}
	o = o.text("eventType", e.Type).truth("managementEvent", e.Management).text("recipientAccountId", e.Recipient).some("sharedEventID", e.SharedEventID)
	if e.Details != nil {
		o = o.any("serviceEventDetails", e.Details)
	}
	return append(o.text("eventCategory", e.Category), '}')
}
