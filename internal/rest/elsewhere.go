package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/forward"
)

// elsewhere does an operation of a service that is switched to another place: the
// caller's policies are asked here, and what the place answers is answered. All
// accounts there are one to us, so only the account that it was switched for may use it.
func (s *Server) elsewhere(ctx context.Context, r *http.Request, c *call, to *forward.Service) (any, error) {
	t := c.to
	operation := t.service.Prefix + ":" + t.op.Name
	if c.principal.Account != s.ElsewhereFor {
		return nil, api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s: %s is not this control plane's own here, and only account %s may use it.",
			c.principal.ARN, operation, t.service.Model.Metadata.ServiceID, s.ElsewhereFor)
	}
	tags := requestTags(inputTags(c.doc))
	for _, arn := range inputARNs(c.doc, s.Realm.Partition) {
		c.about = append(c.about, arn)
		if err := s.Authorizer.Authorize(ctx, auth.Question{
			Principal: c.principal, Action: operation, Resource: arn, Keys: with(s.keys(c), tags),
			Shared: !strings.Contains(arn, ":"+c.principal.Account+":"), // the account there stands for the one here
		}); err != nil {
			return nil, err
		}
	}
	if c.about == nil {
		if err := s.Authorizer.Authorize(ctx, auth.Question{Principal: c.principal, Action: operation, Resource: "*", Keys: with(s.keys(c), tags)}); err != nil {
			return nil, err
		}
	}
	answer, err := to.Send(ctx, t.op.Name, r.Method, r.RequestURI, r.Header, t.body)
	if err != nil {
		s.Log.WarnContext(ctx, "service elsewhere does not answer", "request_id", c.id, "err", err)
		return nil, api.Errorf(api.CodeServiceUnavailable, "%s is elsewhere, and does not answer this control plane: try again.", t.service.Model.Metadata.ServiceID)
	}
	return relayed{answer}, nil
}

// relayed is an answer from elsewhere.
type relayed struct{ *forward.Answer }

func (a relayed) write(w http.ResponseWriter) (status int) {
	maps.Copy(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a client that is gone cannot be told
	return a.Status
}

// refusal is what the record tells of an answer that is none; nil of one that is.
func (a relayed) refusal() error {
	if a.Status < http.StatusBadRequest {
		return nil
	}
	code, _, _ := strings.Cut(a.Header.Get("X-Amzn-Errortype"), ":")
	var said struct {
		Type string `json:"__type"`
	}
	if code == "" && json.Unmarshal(a.Body, &said) == nil {
		code = said.Type[strings.LastIndexByte(said.Type, '#')+1:]
	}
	if _, after, ok := bytes.Cut(a.Body, []byte("<Code>")); ok && code == "" {
		name, _, _ := bytes.Cut(after, []byte("</Code>"))
		code = string(name)
	}
	if code == "" || len(code) > 100 {
		code = fmt.Sprintf("Status%d", a.Status)
	}
	return api.Errorf(code, "The service answered with status %d.", a.Status)
}

// inputARNs are the ARNs that an input names in its outermost members.
func inputARNs(doc map[string]any, partition string) []string {
	var out []string
	add := func(v any) {
		if arn, ok := v.(string); ok && strings.HasPrefix(arn, "arn:"+partition+":") && !slices.Contains(out, arn) {
			out = append(out, arn)
		}
	}
	for _, v := range doc {
		if list, ok := v.([]any); ok {
			for _, item := range list {
				add(item)
			}
			continue
		}
		add(v)
	}
	slices.Sort(out)
	return out
}

// inputTags are the tags that an input has, in whichever letters.
func inputTags(doc map[string]any) []api.TagRef {
	var out []api.TagRef
	for name, v := range doc {
		list, ok := v.([]any)
		if !ok || !strings.EqualFold(name, "tags") {
			continue
		}
		for _, item := range list {
			tag, _ := item.(map[string]any)
			key, value := text(tag, "Key"), text(tag, "Value")
			if key == "" {
				key, value = text(tag, "key"), text(tag, "value")
			}
			if key != "" {
				out = append(out, api.TagRef{Key: key, Value: value})
			}
		}
	}
	return out
}
