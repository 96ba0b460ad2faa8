package rest

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/service"
)

// Who may do what in a mesh is asked twice. allow says whether an account may come
// into a mesh at all; authorize, once it is known what is there, whether the caller's
// policies let it do the action: with the resource's tags among the conditions, and
// without telling who may not whether it exists.

// authorize asks for the call's action on what a key names; r is nil when there is
// nothing (yet).
func (s *Server) authorize(ctx context.Context, c *call, key api.Key, r *api.Resource) error {
	c.authorized = true
	return s.ask(ctx, c, c.action, key, r, c.requestTags())
}

// ask asks for one action on what a key names. A key without a name is a list's: the
// action is on what the list is of, on * for that of meshes.
func (s *Server) ask(ctx context.Context, c *call, action string, key api.Key, r *api.Resource, more map[string][]string) error {
	q := auth.Question{Principal: c.principal, Action: action, Resource: "*", Keys: with(s.keys(c), more)}
	if key.Name == "" {
		parent, ok := key.ParentKey()
		if !ok {
			return s.Authorizer.Authorize(ctx, q)
		}
		key = parent
	}
	owner := c.principal.Account
	if r != nil {
		owner = r.Owner
	}
	q.Resource = s.Realm.ARN(key, owner)
	switch {
	case key.Owner != c.principal.Account: // who came here had a share; a watch may outlast it
		if q.Shared = s.Shares != nil && s.Shares.Shared(c.principal.Account, key.MeshKey(), action); !q.Shared {
			return auth.Allow(c.principal, action, s.Realm.ARN(key, key.Owner))
		}
	case owner != c.principal.Account:
		q.Shared = true // what others made in a mesh of the caller's
	}
	if r != nil && owner == c.principal.Account && len(r.Tags) > 0 {
		// Tags are for the account that set them alone (SHARE-023).
		q.Keys = with(q.Keys, service.TagKeys(pairs(r.Tags), "aws:resourcetag/", "appmesh:resourcetag/"))
	}
	return s.Authorizer.Authorize(ctx, q)
}

// authorizeWrite asks for a write of what a key names, and of what it refers to from
// now on: who routes to a node must be allowed that on the node too (IAM-006,
// IAM-007).
func (s *Server) authorizeWrite(ctx context.Context, c *call, r mesh.Reader, key api.Key) error {
	var old *api.Resource
	if !c.creates() {
		old = r.Get(key)
	}
	if err := s.authorize(ctx, c, key, old); err != nil {
		return err
	}
	for _, ref := range c.refers {
		if err := s.ask(ctx, c, c.action, ref, r.Get(ref), c.requestTags()); err != nil {
			return err
		}
	}
	if err := s.authorizeCertificates(ctx, c); err != nil {
		return err
	}
	if c.creates() && len(c.tags) > 0 {
		return s.authorizeTags(ctx, c, key)
	}
	return nil
}

// authorizeCertificates asks whether the caller may see the certificates and
// authorities that a write names (TLS-007): whoever could not see one is not to have
// a proxy use it. Those of other accounts it may not (TLS-006, SHARE-008).
func (s *Server) authorizeCertificates(ctx context.Context, c *call) error {
	for _, named := range []struct {
		action string
		arns   []string
	}{{"acm:DescribeCertificate", c.named.Certificates}, {"acm-pca:DescribeCertificateAuthority", c.named.Authorities}} {
		for _, arn := range named.arns {
			if err := s.askOf(ctx, c, named.action, arn, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// askOf asks for an action on a certificate or an authority, with its tags among the
// conditions.
func (s *Server) askOf(ctx context.Context, c *call, action, arn string, more map[string][]string) error {
	keys := with(s.keys(c), more)
	if n, ok := api.ParseResourceName(arn); ok && s.Certificates != nil && n.Account == c.principal.Account {
		tags, err := s.Certificates(ctx, arn)
		if err != nil {
			return err
		}
		keys = with(keys, tags)
	}
	return s.Authorizer.Authorize(ctx, auth.Question{Principal: c.principal, Action: action, Resource: arn, Keys: keys})
}

// authorizeIssuers asks whether the caller may have the authorities issue certificates
// that identities of a mesh are to come from and did not before: who may not use an
// authority by itself does not by way of a mesh.
func (s *Server) authorizeIssuers(ctx context.Context, c *call, before, now []string) error {
	template := "arn:" + s.Realm.Partition + ":acm-pca:::template/EndEntityCertificate_APIPassthrough/V1"
	for _, arn := range now {
		if _, builtIn := mesh.Generation(arn); builtIn || slices.Contains(before, arn) {
			continue
		}
		if err := s.askOf(ctx, c, "acm-pca:IssueCertificate", arn, map[string][]string{"acm-pca:templatearn": {template}}); err != nil {
			return err
		}
	}
	return nil
}

// authorizeTags asks for the tags of what is created: appmesh:TagResource, as for tags
// that come later (TAG-003). Not for those without which the policies would refuse to
// create it, unless they deny it: the guide's policy that lets somebody create meshes
// with one tag has to do what it says (IAM-011).
func (s *Server) authorizeTags(ctx context.Context, c *call, key api.Key) error {
	const action = "appmesh:TagResource"
	err := s.ask(ctx, c, action, key, nil, c.requestTags())
	if err == nil || auth.Explicit(err) {
		return err
	}
	free := slices.DeleteFunc(slices.Clone(c.tags), func(t api.TagRef) bool {
		others := slices.DeleteFunc(slices.Clone(c.tags), func(o api.TagRef) bool { return o == t })
		return s.ask(ctx, c, c.action, key, nil, requestTags(others)) != nil
	})
	if len(free) == 0 {
		return nil
	}
	return s.ask(ctx, c, action, key, nil, requestTags(free))
}

// authorizeSight asks for an action that tells what a resource is: its own, and to
// have the resource described.
func (s *Server) authorizeSight(ctx context.Context, c *call, key api.Key, r *api.Resource) error {
	if err := s.authorize(ctx, c, key, r); err != nil {
		return err
	}
	row, _ := key.Kind.Row()
	return s.ask(ctx, c, "appmesh:Describe"+row.Type, key, r, nil)
}

// describes says whether the caller may have a resource described: what plans and
// explanations tell is not to be more than that.
func (s *Server) describes(ctx context.Context, c *call, key api.Key, r *api.Resource) bool {
	row, _ := key.Kind.Row()
	return s.ask(ctx, c, "appmesh:Describe"+row.Type, key, r, nil) == nil
}

// creates says whether the call makes a resource.
func (c *call) creates() bool { return strings.HasPrefix(c.op, "Create") }

// requestTags are the condition keys of the tags that a call carries.
func (c *call) requestTags() map[string][]string {
	if len(c.tags) == 0 && len(c.untags) > 0 {
		return map[string][]string{"aws:tagkeys": c.untags}
	}
	return requestTags(c.tags)
}

func requestTags(tags []api.TagRef) map[string][]string {
	if len(tags) == 0 {
		return nil // most calls have none
	}
	return service.RequestTags(pairs(tags))
}

func pairs(tags []api.TagRef) iter.Seq2[string, string] {
	return service.Pairs(tags, func(t api.TagRef) (key, value string) { return t.Key, t.Value })
}
