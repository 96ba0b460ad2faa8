package sts

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	defaultRoleSession = time.Hour
	longestRoleSession = 12 * time.Hour // that a role can be set to
	// chainedSession bounds the session of a role that another role's session assumed.
	chainedSession = time.Hour
)

// assumeRole gives a session of a role to one whom its trust policy lets have it.
func (s *Server) assumeRole(ctx context.Context, c *service.Call, in *stsapi.AssumeRoleRequest) (*stsapi.AssumeRoleResponse, error) {
	if len(in.ProvidedContexts) > 0 {
		return nil, api.Errorf(codeValidation, "ProvidedContexts are not supported.")
	}
	if c.Principal.Type == auth.Root {
		return nil, api.Errorf(api.CodeAccessDenied, "Roles may not be assumed by root accounts.")
	}
	if c.Principal.Type == auth.FederatedUser {
		return nil, api.Errorf(api.CodeAccessDenied, "Cannot call AssumeRole with federated user credentials")
	}
	account, err := roleAccount(in.RoleARN)
	if err != nil {
		return nil, err
	}
	c.About(in.RoleARN)
	if err := noMFA(in.SerialNumber, in.TokenCode); err != nil {
		return nil, err
	}
	// What is wrong with the request itself is said first: it does not tell whether the
	// role is there.
	l, err := limitsOf(account, in.Policy, in.PolicyARNs, in.Tags, in.TransitiveTagKeys)
	if err != nil {
		return nil, err
	}
	source, err := l.inherit(c.Principal, in.SourceIdentity)
	if err != nil {
		return nil, err
	}
	if err := s.Current(ctx, c.Principal, account); err != nil {
		return nil, err
	}
	role, found, err := s.Directory.Role(ctx, in.RoleARN)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, notAuthorized(c.Principal, actionAssume, in.RoleARN)
	}
	keys := service.Keys(c.Keys, l.keys, map[string][]string{"sts:rolesessionname": {in.RoleSessionName}})
	if in.ExternalID != "" {
		keys["sts:externalid"] = []string{in.ExternalID}
	}
	if source != "" {
		keys["sts:sourceidentity"] = []string{source}
	}
	if err := s.trusts(ctx, role, c.Principal, needs(actionAssume, len(in.Tags) > 0, source != ""), keys); err != nil {
		return nil, err
	}
	// Only who may have the role learns which policies there are, and its longest session.
	if err := s.there(ctx, l.arns); err != nil {
		return nil, err
	}
	d, err := sessionLife(role, in.DurationSeconds, c.Principal.Type == auth.AssumedRole)
	if err != nil {
		return nil, err
	}
	p := s.session(role, in.RoleSessionName, auth.Session{
		Policies: l.policies, Tags: l.tags, Transitive: l.transitive, SourceIdentity: source,
		MFA: c.Principal.Session != nil && c.Principal.Session.MFA,
	})
	made, err := s.Sessions.issue(p, l.arns, d)
	if err != nil {
		return nil, err
	}
	return &stsapi.AssumeRoleResponse{
		AssumedRoleUser: &stsapi.AssumedRoleUser{ARN: p.ARN, AssumedRoleID: p.ID},
		Credentials:     made.api(), PackedPolicySize: l.packed, SourceIdentity: source,
	}, nil
}

// inherit takes over what a chained session has from the one before: its transitive
// tags, which it cannot replace, and its source identity, which never changes.
func (l *limits) inherit(p auth.Principal, source string) (string, error) {
	before := p.Session
	if before == nil || p.Type != auth.AssumedRole {
		return source, nil
	}
	for _, key := range before.Transitive {
		for given := range l.tags {
			if strings.EqualFold(given, key) {
				return "", api.Errorf(codeParameter, "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
			}
		}
	}
	for _, key := range before.Transitive {
		l.tags[key] = before.Tags[key]
	}
	l.transitive = slices.Concat(l.transitive, before.Transitive)
	if before.SourceIdentity == "" {
		return source, nil
	}
	if source != "" && source != before.SourceIdentity {
		return "", api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: the source identity of its session cannot be changed", p.ARN, actionSource)
	}
	return before.SourceIdentity, nil
}

// roleAccount is the account of a role's ARN.
func roleAccount(arn string) (string, error) {
	n, ok := api.ParseResourceName(arn)
	if !ok || n.Service != "iam" || len(n.Account) != 12 || !strings.HasPrefix(n.Resource, "role/") {
		return "", api.Errorf(codeValidation, "%s is invalid", shown(arn))
	}
	return n.Account, nil
}

func sessionLife(r Role, seconds *int64, chained bool) (time.Duration, error) {
	if seconds == nil {
		return min(defaultRoleSession, r.MaxSession), nil
	}
	d := time.Duration(*seconds) * time.Second
	switch {
	case chained && d > chainedSession:
		return 0, api.Errorf(codeValidation, "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	case d > r.MaxSession:
		return 0, api.Errorf(codeValidation, "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	return d, nil
}

// session is the principal of a role's session; its times are set when it is issued.
func (s *Server) session(r Role, name string, session auth.Session) auth.Principal {
	session.Issuer, session.IssuerID, session.Name = r.ARN, r.ID, name
	if len(session.Tags) == 0 {
		session.Tags = nil
	}
	return auth.Principal{Account: r.Account, ARN: s.sessionARN(r, name), Type: auth.AssumedRole, ID: r.ID + ":" + name, Session: &session}
}

// shown is a part of a request for a message, shortened.
func shown(text string) string {
	if len(text) > 256 {
		text = text[:256] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}

// federated is who a provider vouches for, as trust policies name it.
func federated(provider string) policy.Principal { return policy.Principal{Federated: provider} }

// tagKeys are the condition keys of tags that a token or a cluster gives a session.
func tagKeys(tags map[string]string, transitive []string) map[string][]string {
	keys := service.RequestTags(maps.All(tags))
	if len(transitive) > 0 {
		keys["sts:transitivetagkeys"] = transitive
	}
	return keys
}
