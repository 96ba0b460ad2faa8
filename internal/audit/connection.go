package audit

import (
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
)

// Status is what became of a proxy's connection, in the guide's words (AUDIT-007).
type Status string

// The states of a connection. One that was refused is terminated, with the reason.
const (
	Established Status = "ConnectionEstablished"
	Graceful    Status = "ConnectionGracefullyTerminated"
	Terminated  Status = "ConnectionTerminated"
)

// Connection is what happened to one stream of a proxy.
type Connection struct {
	// ID is the same for all that happens to one stream, a UUID (AUDIT-008).
	ID string
	// Principal opened the stream; the zero value is somebody who is not known.
	Principal auth.Principal
	// Node is the ARN of the virtual node or gateway; what the proxy said, when that
	// means none.
	Node   string
	Status Status
	// Reason is why it was refused or ended; empty when it was established, or
	// ended as planned.
	Reason string
	// Refused says that it never was a stream.
	Refused bool
	At      time.Time
}

// details are a connection's, in its event.
type details struct {
	Connection string `json:"connectionId"`
	Node       string `json:"nodeArn"`
	Status     Status `json:"eventStatus"`
	Reason     string `json:"failureReason"`
}

// connectionSource is where events of connections come from, in three of their
// members (AUDIT-006); connectionName is what they are.
const (
	connectionSource = "appmesh.amazonaws.com"
	connectionName   = "StreamAggregatedResources"
)

// connected are the events of a connection: for the account of the proxy and for
// the node's owner, if that is another (AUDIT-005 to AUDIT-009). What nobody known
// has tried is an event of the account that the control plane was made with.
func (t *Trail) connected(c Connection) []segment.Entry {
	e := event{
		Version: eventVersion, Identity: identityOf(c.Principal), Time: stamp(c.At), Source: connectionSource,
		Name: connectionName, Region: t.Region, SourceIP: connectionSource, UserAgent: connectionSource,
		ID: t.NewID(), Type: typeEvent, Management: true, Category: category,
		Details: &details{Connection: c.ID, Node: clipped(c.Node), Status: c.Status, Reason: clipped(c.Reason)},
	}
	e.Identity.SessionContext, e.Identity.InvokedBy = nil, connectionSource // as in the guide's sample
	if c.Status == Established {
		e.ID = c.ID // as in the guide's sample (AUDIT-008)
	}
	account := c.Principal.Account
	if account == "" {
		account = t.Account
	}
	var owners []string
	if node, _ := api.ParseResourceName(c.Node); digits(node.Account) {
		owners = append(owners, node.Account)
	}
	return t.spread(e, c.At, account, stranger(c.Principal), owners)
}
