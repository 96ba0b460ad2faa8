package meshdns

import (
	"net"

	"github.com/miekg/dns"
)

// Reply is reply, for tests.
func (s *Server) Reply(query *dns.Msg, from net.Addr, overUDP bool) *dns.Msg {
	return s.reply(query, from, overUDP)
}
