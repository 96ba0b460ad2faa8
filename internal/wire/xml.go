package wire

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/model"
)

// answerXML writes the answer of the protocol query: OperationResponse, in it the
// result's wrapper, and the request's id.
func answerXML(m *model.Model, op *model.Operation, doc map[string]any, requestID string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<%sResponse xmlns="%s">`, op.Name, m.Metadata.XMLNamespace)
	if op.Output.Shape != "" {
		wrapper := op.Output.ResultWrapper
		if wrapper == "" {
			wrapper = op.Name + "Result"
		}
		element(&b, m, model.Ref{Shape: op.Output.Shape}, wrapper, doc)
	}
	b.WriteString("<ResponseMetadata>")
	text(&b, "RequestId", requestID)
	fmt.Fprintf(&b, "</ResponseMetadata></%sResponse>", op.Name)
	return b.Bytes()
}

func refuseXML(m *model.Model, f Fault, requestID string) []byte {
	who := "Receiver"
	if f.Theirs {
		who = "Sender"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<ErrorResponse xmlns="%s"><Error>`, m.Metadata.XMLNamespace)
	text(&b, "Type", who)
	text(&b, "Code", f.Code)
	text(&b, "Message", f.Message)
	b.WriteString("</Error>")
	text(&b, "RequestId", requestID)
	b.WriteString("</ErrorResponse>")
	return b.Bytes()
}

func text(b *bytes.Buffer, name, value string) {
	b.WriteString("<" + name + ">")
	_ = xml.EscapeText(b, []byte(value)) // a buffer takes everything
	b.WriteString("</" + name + ">")
}

// element writes a value as an element; members in the order of their names.
func element(b *bytes.Buffer, m *model.Model, ref model.Ref, name string, v any) {
	shape := m.Shapes[ref.Shape]
	switch v := v.(type) {
	case map[string]any:
		b.WriteString("<" + name + ">")
		for _, member := range slices.Sorted(maps.Keys(v)) {
			if v[member] == nil {
				continue
			}
			switch shape.Type {
			case "structure":
				if ref, ok := shape.Members[member]; ok {
					wire := member
					if ref.LocationName != "" {
						wire = ref.LocationName
					}
					element(b, m, ref, wire, v[member])
				}
			case "map":
				b.WriteString("<entry>")
				text(b, "key", member)
				element(b, m, *shape.Value, "value", v[member])
				b.WriteString("</entry>")
			}
		}
		b.WriteString("</" + name + ">")
	case []any:
		b.WriteString("<" + name + ">")
		item := "member"
		if shape.Member.LocationName != "" {
			item = shape.Member.LocationName
		}
		for _, x := range v {
			element(b, m, *shape.Member, item, x)
		}
		b.WriteString("</" + name + ">")
	case json.Number:
		if shape.Type == "timestamp" {
			text(b, name, isoTime(v))
			return
		}
		text(b, name, v.String())
	default:
		text(b, name, fmt.Sprint(v))
	}
}

// isoTime is a time in the form of XML: 2026-03-01T12:00:00Z, with milliseconds if
// it has any.
func isoTime(n json.Number) string {
	seconds, _ := n.Float64() // 0 for what is no number; documents have none
	return time.UnixMilli(int64(math.Round(seconds * 1000))).UTC().Format("2006-01-02T15:04:05.999Z07:00")
}
