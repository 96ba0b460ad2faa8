package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// mostExplained is how many proxies, and how many users, an explanation names.
// It counts them all.
const mostExplained = 200

// useEvery is how often a watch works out anew what uses the resource, at most:
// it costs the views of the whole mesh.
const useEvery = 2 * time.Second

// Reasons of conditions.
const (
	reasonStored       = "Stored"
	reasonResolved     = "Resolved"
	reasonUnused       = "Unused"
	reasonNotConnected = "NotConnected"
	reasonProgrammed   = "Programmed"
	reasonInPart       = "ProgrammedInPart"
	reasonRefused      = "Refused"
	reasonPending      = "Pending"
)

// explain tells what became of a resource (D11); with watch it answers a line at
// every change, until the resource is gone or the caller leaves.
func (s *Server) explain(ctx context.Context, c *call) (any, error) {
	key, err := s.tagged(ctx, c)
	if err != nil {
		return nil, err
	}
	e := &explainer{s: s, c: c, key: key}
	changed := s.Ledger.Changed()
	now, err := e.now(ctx)
	if watch, _ := c.doc["watch"].(bool); err != nil || !watch {
		return now, err
	}
	return streamed{run: func(ctx context.Context, w http.ResponseWriter) { e.watch(ctx, w, now, changed) }}, nil
}

// explainer explains one resource again and again.
type explainer struct {
	s   *Server
	c   *call
	key api.Key

	snapshot *mesh.Snapshot // which use is of
	at       time.Time      // when it was worked out
	use      plan.Use
}

// now is the explanation at present.
func (e *explainer) now(ctx context.Context) (api.Explanation, error) {
	snapshot, err := e.s.Snapshot(ctx)
	if err != nil {
		return api.Explanation{}, err
	}
	r := snapshot.Get(e.key)
	if err := e.s.authorizeSight(ctx, e.c, e.key, r); err != nil {
		return api.Explanation{}, err
	}
	if r == nil {
		return api.Explanation{}, missing(snapshot, e.key)
	}
	if now := e.s.Now(); e.snapshot == nil || (e.snapshot != snapshot && now.Sub(e.at) >= useEvery) {
		e.snapshot, e.at, e.use = snapshot, now, plan.UseOf(snapshot, e.key)
	}
	rollout, proxies, err := e.s.Ledger.Reached(ctx, e.key)
	if err != nil {
		return api.Explanation{}, err
	}
	rollout, proxies = seen(e.c.principal.Account, e.key, rollout, proxies)
	arn := func(k api.Key) string {
		if r := snapshot.Get(k); r != nil {
			return e.s.Realm.ARN(k, r.Owner)
		}
		return e.s.Realm.ARN(k, k.Owner)
	}
	out := api.Explanation{
		ResourceARN: arn(e.key), ResourceVersion: r.Version, Revision: r.Revision, CreatedAt: seconds(r.Created), LastUpdatedAt: seconds(r.Updated),
		ProxiesAccepted: rollout.ProxiesAccepted, ProxiesAffected: rollout.ProxiesAffected,
		ReplicasApplied: rollout.ReplicasApplied, ReplicasTotal: rollout.ReplicasTotal,
		Unknown: rollout.Unknown, Users: []string{}, UsersTotal: int64(len(e.use.Clients)), Proxies: []api.Proxy{},
	}
	hidden := map[string]bool{} // what the caller may not have described
	for _, c := range e.use.Clients {
		switch user := arn(c.Key); {
		case !e.s.describes(ctx, e.c, c.Key, snapshot.Get(c.Key)):
			hidden[user] = true
		case len(out.Users) < mostExplained:
			out.Users = append(out.Users, user)
		}
	}
	for _, p := range proxies {
		if len(out.Proxies) < mostExplained && !hidden[p.ResourceARN] {
			out.Proxies = append(out.Proxies, p)
		}
	}
	e.s.drains(out.Proxies)
	named, sure, err := e.named(ctx, r)
	if err != nil {
		return api.Explanation{}, err
	}
	found := slices.Concat(e.use.Problems, named)
	out.Problems = problems(rollout, found, out.ResourceARN)
	servers := 0
	for _, p := range proxies {
		if p.ResourceARN == out.ResourceARN {
			servers++
		}
	}
	out.Advice = slices.Concat(mesh.Advice(snapshot, r), mesh.Tried(r), mesh.Checked(r, len(proxies)-servers, servers))
	out.Conditions = []api.Condition{accepted(r), e.resolved(found, sure), programmed(r, out, proxies)}
	if out.Unknown == nil {
		out.Unknown = []string{}
	}
	return out, nil
}

// problems are what the replicas found for their proxies, and what is found here
// for nodes and gateways that have none.
func problems(rollout api.Rollout, found []mesh.Problem, arn string) []api.Problem {
	out := append([]api.Problem{}, rollout.Problems...)
	seen := map[api.Problem]bool{}
	for _, p := range out {
		seen[p] = true
	}
	for _, p := range found {
		if now := (api.Problem{ResourceARN: arn, Reason: p.Reason, Message: p.Message}); !seen[now] {
			seen[now] = true
			out = append(out, now)
		}
	}
	return out
}

// accepted: what is in the store was accepted; since the write of this version.
func accepted(r *api.Resource) api.Condition {
	since := seconds(r.Updated)
	return api.Condition{
		Type: api.ConditionTypeAccepted, Status: api.ConditionStatusTrue, Reason: reasonStored, Since: &since,
		Message: fmt.Sprintf("Version %d is stored.", r.Version),
	}
}

// resolved says whether all that the resource refers to exists, now: replicas may
// still have to learn of it. Since when is not kept anywhere, so it is not said. Not sure
// is what it names that only others could tell of.
func (e *explainer) resolved(found []mesh.Problem, sure bool) api.Condition {
	out := api.Condition{Type: api.ConditionTypeResolvedRefs, Status: api.ConditionStatusTrue, Reason: reasonResolved, Message: "Everything that it refers to exists."}
	if len(e.use.Clients) == 0 {
		out.Status, out.Reason = api.ConditionStatusUnknown, reasonUnused
		out.Message = "No virtual node and no virtual gateway leads to it, so nothing was resolved."
		return out
	}
	if !sure {
		out.Message = "Every resource of the mesh that it refers to exists. Certificates or authorities that it names are elsewhere, and were not asked for."
	}
	missing := 0
	for _, p := range found {
		if p.Reason != mesh.ReasonNotFound {
			continue
		}
		if missing++; missing == 1 {
			out.Status, out.Reason, out.Message = api.ConditionStatusFalse, p.Reason, p.Message
		}
	}
	if missing > 1 {
		out.Message += fmt.Sprintf(" And %d more: see the problems.", missing-1)
	}
	return out
}

// programmed says whether every connected proxy that the resource concerns has
// accepted all that is wanted of it. It holds since the last of them did, or the
// resource was written, whichever came later.
func programmed(r *api.Resource, e api.Explanation, proxies []api.Proxy) api.Condition {
	out := api.Condition{Type: api.ConditionTypeProgrammed, Status: api.ConditionStatusFalse}
	first, last := refusedAndAccepted(proxies)
	switch refused := countOf(proxies, api.ProxyStateRefused); {
	case e.UsersTotal == 0:
		out.Status, out.Reason = api.ConditionStatusUnknown, reasonUnused
		out.Message = "No virtual node and no virtual gateway leads to it, so it concerns no proxy: refer to it from a backend, a provider, a target or a gateway route."
	case refused > 0:
		out.Reason = reasonRefused
		out.Message = fmt.Sprintf("Refused by %d of %d proxies, which keep what they had.", refused, e.ProxiesAffected)
		if !first.IsZero() {
			since := seconds(first)
			out.Since = &since
		}
	case e.ProxiesAffected == 0 && len(e.Unknown) == 0:
		out.Status, out.Reason = api.ConditionStatusUnknown, reasonNotConnected
		out.Message = fmt.Sprintf("None of the nodes and gateways that lead to it (%d) has a connected proxy.", e.UsersTotal)
	case len(e.Unknown) > 0 || e.ProxiesAccepted < e.ProxiesAffected || e.ReplicasApplied < e.ReplicasTotal:
		out.Reason = reasonPending
		out.Message = fmt.Sprintf("Accepted by %d of %d proxies; %d of %d replicas are current.", e.ProxiesAccepted, e.ProxiesAffected, e.ReplicasApplied, e.ReplicasTotal)
	default:
		out.Status, out.Reason = api.ConditionStatusTrue, reasonProgrammed
		out.Message = fmt.Sprintf("Accepted by all connected proxies that it concerns (%d).", e.ProxiesAffected)
		if slices.ContainsFunc(e.Problems, func(p api.Problem) bool { return !mesh.Problem{Reason: p.Reason}.Remark() }) {
			out.Reason = reasonInPart
			out.Message = fmt.Sprintf("All connected proxies that it concerns (%d) accepted what could be translated of it: see the problems.", e.ProxiesAffected)
		}
		if r.Updated.After(last) {
			last = r.Updated
		}
		since := seconds(last)
		out.Since = &since
	}
	return out
}

// refusedAndAccepted are the time of the first refusal that stands and that of
// the last acceptance; zero when there is none.
func refusedAndAccepted(proxies []api.Proxy) (refused, accepted time.Time) {
	for _, p := range proxies {
		for _, t := range p.Types {
			if p.State == api.ProxyStateRefused && t.Refusal != nil && (refused.IsZero() || t.Refusal.At.Before(refused)) {
				refused = t.Refusal.At.Time
			}
			if t.AcceptedAt != nil && t.AcceptedAt.After(accepted) {
				accepted = t.AcceptedAt.Time
			}
		}
	}
	return refused, accepted
}

func countOf(proxies []api.Proxy, state api.ProxyState) int {
	n := 0
	for _, p := range proxies {
		if p.State == state {
			n++
		}
	}
	return n
}

// watch writes the explanation as it is now, and again whenever it differs,
// until the resource is gone.
func (e *explainer) watch(ctx context.Context, w http.ResponseWriter, now api.Explanation, changed <-chan struct{}) {
	e.s.lines(ctx, w, e.c, e.key, now, changed, func() bool { return false }, func() (any, error) {
		next, err := e.now(ctx)
		var refusal *api.Error
		if errors.As(err, &refusal) && refusal.Code == api.CodeNotFound {
			return nil, nil
		}
		return next, err
	})
}
