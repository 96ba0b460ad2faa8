package audit

import (
	"encoding/json"
	"strconv"

	"github.com/evermesh/evermesh/internal/api"
)

// An event is encoded by hand, as every call waits for it; what is rare in it,
// package json encodes. Members stand in CloudTrail's order.

// object is a JSON object that is being written.
type object []byte

func (o object) name(name string) object {
	if len(o) > 0 && o[len(o)-1] != '{' {
		o = append(o, ',')
	}
	return append(append(append(o, '"'), name...), '"', ':')
}

// text adds a member.
func (o object) text(name, value string) object { return api.AppendString(o.name(name), value) }

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

// any adds a member that is a document, or what package json encodes.
func (o object) any(name string, value any) object { return appended(o.name(name), value) }

// appended adds a value. What is added here always can be written.
func appended(b []byte, value any) []byte {
	out, err := api.AppendDocument(b, value)
	if err != nil {
		return append(b, null...)
	}
	return out
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
