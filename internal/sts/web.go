package sts

import (
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/sts/oidc"
)

// tagsClaim is the claim in which a token brings tags of its session.
const tagsClaim = "https://aws.amazon.com/tags"

// assumeRoleWithWebIdentity gives a session of a role to who has a token of a provider
// that the role's account has registered, and that its trust policy lets in. The
// request is not signed: the token is the proof.
func (s *Server) assumeRoleWithWebIdentity(ctx context.Context, c *service.Call, in *stsapi.AssumeRoleWithWebIdentityRequest) (*stsapi.AssumeRoleWithWebIdentityResponse, error) {
	if in.ProviderID != "" {
		return nil, api.Errorf(codeValidation, "ProviderId is for providers of OAuth 2.0, which are not supported: leave it out for a token of OpenID Connect.")
	}
	w, err := s.web(ctx, in.WebIdentityToken, in.RoleARN, in.RoleSessionName, c.Keys)
	if w.session.Subject != "" { // the event says who it was; what a stranger tries is none
		c.Principal = auth.Principal{Session: &auth.Session{Provider: w.session.Provider, Subject: w.session.Subject}}
		c.About(in.RoleARN)
	}
	if err != nil {
		return nil, err
	}
	l, err := limitsOf(w.role.Account, in.Policy, in.PolicyARNs, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := s.there(ctx, l.arns); err != nil {
		return nil, err
	}
	d, err := sessionLife(w.role, in.DurationSeconds, false)
	if err != nil {
		return nil, err
	}
	w.session.Policies = l.policies
	p := s.session(w.role, in.RoleSessionName, w.session)
	made, err := s.Sessions.issue(p, l.arns, d)
	if err != nil {
		return nil, err
	}
	return &stsapi.AssumeRoleWithWebIdentityResponse{
		AssumedRoleUser: &stsapi.AssumedRoleUser{ARN: p.ARN, AssumedRoleID: p.ID},
		Credentials:     made.api(), PackedPolicySize: l.packed,
		Provider: &w.session.Provider, Audience: &w.token.Audience[0], SubjectFromWebIdentityToken: w.token.Subject,
	}, nil
}

// web is a token that was found good for a role.
type web struct {
	role    Role
	token   oidc.Token
	session auth.Session
}

// web verifies a token and asks the role's trust policy. The account of the role must
// know the token's issuer; no other account's provider counts. Of one that is refused
// although its token is good, the session says who it was.
func (s *Server) web(ctx context.Context, raw, roleARN, name string, keys map[string][]string) (web, error) {
	account, err := roleAccount(roleARN)
	if err != nil {
		return web{}, err
	}
	if err := s.Directory.Fresh(ctx, account); err != nil {
		return web{}, err
	}
	t, provider, err := s.verify(ctx, account, raw, nil)
	if err != nil {
		return web{}, err
	}
	known := web{token: t, session: auth.Session{Provider: provider.ARN, Subject: t.Subject}}
	refused := api.Errorf(api.CodeAccessDenied, "Not authorized to perform %s", actionWeb)
	role, found, err := s.Directory.Role(ctx, roleARN)
	if err != nil {
		return known, err
	}
	if !found {
		return known, refused
	}
	tags, transitive := tagsOf(t)
	all := service.Keys(keys, tagKeys(tags, transitive), tokenKeys(t), map[string][]string{
		"aws:federatedprovider": {provider.ARN}, "sts:rolesessionname": {name},
	})
	if !vouched(role, federated(provider.ARN), needs(actionWeb, len(tags) > 0, false), all) {
		return known, refused
	}
	return web{role: role, token: t, session: auth.Session{
		Provider: provider.ARN, Subject: t.Subject, Tags: tags, Transitive: transitive,
	}}, nil
}

// verify verifies a token for an account. audiences are those that count beside the
// provider's own.
func (s *Server) verify(ctx context.Context, account, raw string, audiences []string) (oidc.Token, Provider, error) {
	var provider Provider
	var failed error
	t, err := s.Tokens.Verify(ctx, account, raw, func(issuer string) ([]string, bool) {
		p, found, err := s.Directory.Provider(ctx, account, oidc.Name(issuer))
		// Names are found without case; issuers are compared with it.
		if failed = err; err != nil || !found || p.Issuer != oidc.Name(issuer) {
			return nil, false
		}
		provider = p
		return slices.Concat(audiences, p.Audiences), true
	})
	if failed != nil {
		return oidc.Token{}, Provider{}, failed
	}
	return t, provider, err
}

// tokenKeys are the condition keys that a token has, as IRSA's trust policies write
// them: ISSUER:sub and ISSUER:aud.
func tokenKeys(t oidc.Token) map[string][]string {
	prefix := policy.KeyName(oidc.Name(t.Issuer)) + ":"
	keys := map[string][]string{prefix + "sub": {t.Subject}, prefix + "aud": t.Audience}
	for key, claim := range map[string]string{"oaud": "aud", "amr": "amr", "email": "email"} {
		if values := t.Claim(claim); len(values) > 0 {
			keys[prefix+key] = values
		}
	}
	return keys
}

// tagsOf are the session's tags that a token brings.
func tagsOf(t oidc.Token) (map[string]string, []string) {
	claim, _ := t.Claims[tagsClaim].(map[string]any)
	given, _ := claim["principal_tags"].(map[string]any)
	tags := map[string]string{}
	for key, values := range given {
		switch v := values.(type) {
		case string:
			tags[key] = v
		case []any:
			if text, ok := first(v).(string); ok {
				tags[key] = text
			}
		}
	}
	var transitive []string
	keys, _ := claim["transitive_tag_keys"].([]any)
	for _, k := range keys {
		if key, ok := k.(string); ok && tags[key] != "" {
			transitive = append(transitive, key)
		}
	}
	return tags, transitive
}

func first(list []any) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}
