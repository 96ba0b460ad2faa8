package rest

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// rolloutPoll is how often a watched rollout is looked at when nothing happened here: proxies of other replicas accept
// without telling this one.
const rolloutPoll = 500 * time.Millisecond

// streamed is an answer of many JSON lines.
type streamed struct {
	run func(ctx context.Context, w http.ResponseWriter)
}

// listProxies answers every connected Envoy of the caller's nodes and gateways, and of
// all that are in its meshes, with what it accepted and what it refused.
func (s *Server) listProxies(ctx context.Context, c *call) (any, error) {
	of := api.Key{Owner: c.principal.Account, Kind: api.KindMesh}
	if err := s.allow(c, of); err != nil {
		return nil, err
	}
	if err := s.authorize(ctx, c, of, nil); err != nil {
		return nil, err
	}
	after, err := parsePageToken(c.doc)
	if err != nil {
		return nil, err
	}
	if after != "" {
		// Which proxies an account sees, the ledger knows; its tokens are its own.
		of, place, whole := strings.Cut(after, "\n")
		if !whole || of != c.principal.Account {
			return nil, strangeToken()
		}
		after = place
	}
	proxies, replicas, err := s.Ledger.Proxies(ctx, c.principal.Account)
	if err != nil {
		return nil, err
	}
	meshName, arn := text(c.doc, "meshName"), text(c.doc, "resourceArn")
	proxies = slices.DeleteFunc(proxies, func(p api.Proxy) bool {
		a, err := api.ParseARN(p.ResourceARN)
		return err != nil || (meshName != "" && a.Mesh != meshName) ||
			(arn != "" && p.ResourceARN != arn) || position(p) <= after
	})
	slices.SortFunc(proxies, func(a, b api.Proxy) int {
		if position(a) < position(b) {
			return -1
		}
		return 1
	})
	out := api.ListProxiesOutput{Proxies: proxies, Replicas: replicas}
	if limit := limitOf(c.doc); len(proxies) > limit {
		out.Proxies = proxies[:limit]
		token := pageToken(c.principal.Account + "\n" + position(proxies[limit-1]))
		out.NextToken = &token
	}
	s.drains(out.Proxies)
	if out.Proxies == nil {
		out.Proxies = []api.Proxy{}
	}
	if out.Replicas == nil {
		out.Replicas = []api.Replica{}
	}
	return out, nil
}

// position orders proxies in a list.
func position(p api.Proxy) string { return p.ResourceARN + "\n" + p.Instance + "\n" + p.Replica }

// describeRollout tells how far the newest version of a resource has come; with
// watch it answers a line at every change, until the rollout is done, refused,
// or the caller leaves.
func (s *Server) describeRollout(ctx context.Context, c *call) (any, error) {
	key, err := s.tagged(ctx, c)
	if err != nil {
		return nil, err
	}
	found, err := s.Store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(ctx, c, key, found); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, s.absent(ctx, key)
	}
	// Asked before the first line, so that a ledger that cannot be read is
	// answered with a status.
	changed := s.Ledger.Changed()
	now, err := s.Ledger.Rollout(ctx, key)
	now, _ = seen(c.principal.Account, key, now, nil)
	if watch, _ := c.doc["watch"].(bool); err != nil || !watch {
		return now, err
	}
	return streamed{run: func(ctx context.Context, w http.ResponseWriter) { s.watchRollout(ctx, w, c, found, now, changed) }}, nil
}

// watchRollout writes the rollout as it is now, and again whenever it differs,
// until it is settled, or the caller may not see it any more.
func (s *Server) watchRollout(ctx context.Context, w http.ResponseWriter, c *call, of *api.Resource, now api.Rollout, changed <-chan struct{}) {
	settled := func() bool { return now.State != api.RolloutStateWaiting }
	s.lines(ctx, w, c, of.Key, now, changed, settled, func() (any, error) {
		err := s.authorize(ctx, c, of.Key, of)
		if err != nil {
			return nil, err
		}
		now, err = s.Ledger.Rollout(ctx, of.Key)
		now, _ = seen(c.principal.Account, of.Key, now, nil)
		return now, err
	})
}

// seen is what an account sees of a rollout: all of it in a mesh of its own. In another's,
// the counts are of all proxies, and the proxies that are named are those of nodes of the
// account's own; what was found wrong for others is not told.
func seen(account string, key api.Key, r api.Rollout, proxies []api.Proxy) (api.Rollout, []api.Proxy) {
	if key.Owner == account {
		return r, proxies
	}
	own := func(list []api.Proxy) []api.Proxy {
		var out []api.Proxy
		for _, p := range list {
			if a, err := api.ParseARN(p.ResourceARN); err == nil && a.Account == account {
				out = append(out, p)
			}
		}
		return out
	}
	r.Refused, r.Waiting, r.Problems = own(r.Refused), own(r.Waiting), nil
	return r, own(proxies)
}

// holds says whether the credentials with which a watch was opened hold yet; policies
// are asked with the time that it is now.
func (s *Server) holds(c *call) error {
	c.at, c.keys = s.Now(), nil
	if session := c.principal.Session; session != nil && !c.at.Before(session.Expires) {
		return api.Errorf(api.CodeExpiredToken, "The security token included in the request is expired.")
	}
	if s.Holds == nil {
		return nil
	}
	return s.Holds(c.principal)
}

// lines writes first as a line of JSON, and then what next makes whenever
// something may have changed and it differs, until that was settled, next returns
// nil or fails, the caller leaves, or its credentials do not hold any more.
func (s *Server) lines(ctx context.Context, w http.ResponseWriter, c *call, key api.Key, first any, changed <-chan struct{}, settled func() bool, next func() (any, error)) {
	w.Header().Set("Content-Type", contentTypeStream)
	flusher := http.NewResponseController(w)
	var last string
	for now := first; ; {
		line, err := encode(now)
		if err != nil {
			return
		}
		if string(line) != last {
			if _, err := w.Write(append(line, '\n')); err != nil || flusher.Flush() != nil {
				return
			}
			last = string(line)
		}
		if settled() {
			return
		}
		select {
		case <-changed:
		case <-time.After(rolloutPoll):
		case <-ctx.Done():
			return
		}
		changed = s.Ledger.Changed()
		if err = s.holds(c); err == nil {
			now, err = next()
		}
		if now == nil || err != nil {
			if err != nil && ctx.Err() == nil {
				// The status is sent already: the stream ends, and the caller asks
				// again.
				s.Log.WarnContext(ctx, "watch ended", "key", key.String(), "err", err)
			}
			return
		}
	}
}
