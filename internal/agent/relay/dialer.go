package relay

import "net"

// NewDialer makes connections as the relay's own are, for what else the agent asks: with mark, so that interception leaves
// them alone; 0 is no mark.
func NewDialer(mark uint32) *net.Dialer { return newDialer(mark) }
