package sts

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	// maxPolicyText bounds a session's policy and the ARNs of managed ones together, in
	// characters; maxPolicyARNs is how many of those it may have.
	maxPolicyText = 2048
	maxPolicyARNs = 10
	// maxPacked bounds policies and tags in a token, in bytes.
	maxPacked = 4096
)

// limits is what a session is asked to be narrowed to, and its tags.
type limits struct {
	policies, arns []string
	tags           map[string]string
	transitive     []string
	packed         *int64 // percent of what is allowed; nil without policies and tags
	// keys are condition keys: aws:requesttag/K, aws:tagkeys and so on.
	keys map[string][]string
}

// limitsOf checks and reads them. account is that of the managed policies; whether these
// are there says there.
func limitsOf(account, text string, descriptors []stsapi.PolicyDescriptorType, tags []stsapi.Tag, transitive []string) (limits, error) {
	l := limits{tags: map[string]string{}, keys: map[string][]string{}, transitive: transitive}
	if err := l.readPolicies(text, descriptors); err != nil {
		return limits{}, err
	}
	for _, arn := range l.arns {
		n, ok := api.ParseResourceName(arn)
		if !ok || n.Account != account && n.Account != "aws" {
			return limits{}, api.Errorf(codeValidation, "Policy %s is not in account %s.", arn, account)
		}
	}
	if err := l.readTags(tags); err != nil {
		return limits{}, err
	}
	return l, l.pack()
}

// there says whether managed policies exist: to one who may have the session, as others
// are not told what an account has.
func (s *Server) there(ctx context.Context, arns []string) error {
	for _, arn := range arns {
		if _, found, err := s.Directory.Policy(ctx, arn); err != nil {
			return err
		} else if !found {
			return api.Errorf(codeParameter, "Policy %s does not exist.", arn)
		}
	}
	return nil
}

func (l *limits) readPolicies(text string, descriptors []stsapi.PolicyDescriptorType) error {
	size := len([]rune(text))
	if text != "" {
		d, err := policy.Parse(text)
		if err != nil {
			return api.Errorf(stsapi.CodeMalformedPolicyDocument, "%s", err)
		}
		if err := d.ForIdentity(); err != nil {
			return api.Errorf(stsapi.CodeMalformedPolicyDocument, "%s", err)
		}
		l.policies = []string{text}
	}
	if len(descriptors) > maxPolicyARNs {
		return api.Errorf(codeValidation, "A session takes at most %d managed policies, not %d.", maxPolicyARNs, len(descriptors))
	}
	for _, d := range descriptors {
		if d.ARN == "" {
			continue
		}
		l.arns = append(l.arns, d.ARN)
		size += len(d.ARN)
	}
	if size > maxPolicyText {
		return api.Errorf(stsapi.CodePackedPolicyTooLarge, "The session's policy and the ARNs of its managed policies have %d characters together, at most %d are allowed.", size, maxPolicyText)
	}
	return nil
}

// readTags checks the tags, and makes condition keys of them.
func (l *limits) readTags(tags []stsapi.Tag) error {
	folded := map[string]bool{}
	for _, t := range tags {
		if strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return api.Errorf(codeParameter, "Tag key %s begins with aws:, which is reserved.", t.Key)
		}
		if name := strings.ToLower(t.Key); folded[name] {
			return api.Errorf(codeParameter, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		} else {
			folded[name] = true
		}
		l.tags[t.Key] = t.Value
	}
	maps.Copy(l.keys, service.RequestTags(maps.All(l.tags)))
	for _, key := range l.transitive {
		if _, ok := l.tags[key]; !ok {
			return api.Errorf(codeParameter, "The specified transitive tag key must be included in the requested tags.")
		}
	}
	if len(l.transitive) > 0 {
		l.keys["sts:transitivetagkeys"] = l.transitive
	}
	return nil
}

// pack counts what the token has to carry.
func (l *limits) pack() error {
	size := 0
	for _, text := range slices.Concat(l.policies, l.arns) {
		size += len(text)
	}
	for k, v := range l.tags {
		size += len(k) + len(v)
	}
	if size == 0 {
		return nil
	}
	percent := int64((size*100 + maxPacked - 1) / maxPacked)
	if percent > 100 {
		return api.Errorf(stsapi.CodePackedPolicyTooLarge, "The session's policies and tags take %d%% of the space that a session token has for them.", percent)
	}
	l.packed = &percent
	return nil
}
