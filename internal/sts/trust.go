package sts

import (
	"context"
	"fmt"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
)

// Actions that trust policies allow.
const (
	actionAssume = "sts:AssumeRole"
	actionWeb    = "sts:AssumeRoleWithWebIdentity"
	actionTag    = "sts:TagSession"
	actionSource = "sts:SetSourceIdentity"
)

// needs are the actions that a session with tags and a source identity takes besides
// the one that makes it.
func needs(action string, tagged, sourced bool) []string {
	actions := []string{action}
	if tagged {
		actions = append(actions, actionTag)
	}
	if sourced {
		actions = append(actions, actionSource)
	}
	return actions
}

// trusts says whether the role's trust policy and the caller's own policies let the
// caller have a session.
func (s *Server) trusts(ctx context.Context, r Role, p auth.Principal, actions []string, keys policy.Map) error {
	for _, action := range actions {
		d, err := s.Directory.Decide(ctx, auth.Question{Principal: p, Action: action, Resource: r.ARN, Keys: keys}, r.Trust)
		if err != nil {
			return fmt.Errorf("decide about role %s: %w", r.ARN, err)
		}
		if d.Outcome != policy.Allowed {
			return notAuthorized(p, action, r.ARN)
		}
	}
	return nil
}

// notAuthorized is the same for a role that does not exist: who may not have it does
// not learn which roles there are.
func notAuthorized(p auth.Principal, action, role string) error {
	return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s", p.ARN, action, role)
}

// vouched says whether the role's trust policy lets one in for whom a provider or a
// service vouches; who has no account has no policies of its own.
func vouched(r Role, who policy.Principal, actions []string, keys policy.Map) bool {
	for _, action := range actions {
		d := policy.Evaluate(
			policy.Request{Principal: who, Action: action, Resource: r.ARN, Keys: keys},
			policy.Set{Resource: r.Trust, Trust: true},
		)
		if d.Outcome != policy.Allowed {
			return false
		}
	}
	return true
}
