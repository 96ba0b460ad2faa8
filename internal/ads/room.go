package ads

import (
	"context"
	"maps"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Room is how many proxies a node or gateway may have connected (QUOTA-002, QUOTA-003).
// The zero value is no limit.
type Room struct {
	Most int
	// Quota is the code of the limit, for whoever is refused.
	Quota string
	// Elsewhere are the instances that are connected to other replicas.
	Elsewhere map[string]bool
	// Known says whether a proxy was connected lately, to whichever replica: it always
	// comes in again. Came is told of each that came in. Both return at once.
	Known func(instance, peer string) bool
	Came  func(instance, peer string)
}

func (s *Server) room(ctx context.Context, p *proxy) Room {
	if s.Room == nil {
		return Room{}
	}
	asking, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	return s.Room(asking, p.client.Key)
}

// enter refuses a proxy that is new and one too many; mu is held, so that of two that
// come at once the second counts the first.
func (s *Server) enter(p *proxy, r Room) error {
	if r.Most == 0 {
		return nil
	}
	all := maps.Clone(r.Elsewhere)
	if all == nil {
		all = map[string]bool{}
	}
	for _, g := range s.byKey[p.client.Key] {
		for m := range g.members {
			all[m.instance] = true
		}
	}
	if n := len(all); n >= r.Most && !all[p.instance] && !r.Known(p.instance, p.peer) {
		return status.Errorf(codes.ResourceExhausted, "%s has %d connected Envoys, and its quota is %d (%s): stop some, or have the quota raised.", oneLine(p.arn), n, r.Most, r.Quota)
	}
	r.Came(p.instance, p.peer)
	return nil
}
