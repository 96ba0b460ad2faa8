package ads

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/auth"
)

// Connection is what happened to a stream: it was opened, it ended, or it was
// refused (AUDIT-005 to AUDIT-009).
type Connection struct {
	ID        string // the same for one stream, a UUID
	Principal auth.Principal
	// Node is the ARN of the node or gateway; where it is not known, what the proxy
	// said.
	Node string
	// Open says that it was opened now; else it is over.
	Open bool
	// Refused says that it never was open, for what it is.
	Refused bool
	// Status is what it ended with; nil is a planned end.
	Status *status.Status
	At     time.Time
}

// open tells that a stream was opened.
func (s *Server) open(c *Connection) {
	if s.Connected == nil {
		return
	}
	c.ID, c.Open, c.At = uuid.NewString(), true, s.Now()
	s.Connected(*c)
}

// end tells that a stream ended, and returns what it ended with.
func (s *Server) end(c Connection, err error) error {
	if s.Connected != nil {
		c.Open, c.Status, c.At = false, nil, s.Now()
		if err != nil {
			c.Status = status.Convert(err)
		}
		s.Connected(c)
	}
	return err
}

// refuse tells that a stream was refused for what it is, not for what this
// replica is at, and returns with what.
func (s *Server) refuse(c Connection, err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.ResourceExhausted, codes.Unauthenticated:
		c.ID, c.Refused = uuid.NewString(), true
		return s.end(c, err)
	}
	return err
}
