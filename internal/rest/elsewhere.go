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
	questions, err := t.questions(s.Realm, c.principal.Account, c.doc)
	if err != nil {
		return nil, err
	}
	for _, q := range questions {
		if q.Resource != "*" && !slices.Contains(c.about, q.Resource) {
			c.about = append(c.about, q.Resource)
		}
		n, _ := api.ParseResourceName(q.Resource)
		q.Shared = n.Account != c.principal.Account && q.Resource != "*" // the account there stands for the one here
		q.Principal, q.Keys = c.principal, with(with(s.keys(c), requestKeys(c.doc)), q.Keys)
		if err := s.Authorizer.Authorize(ctx, q); err != nil {
			return nil, err
		}
	}
	on := t.onward(r, c.doc)
	answer, err := to.Send(ctx, t.op.Name, on.method, on.uri, on.header, on.body)
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

// requestKeys are the condition keys of the tags that an input gives or takes off, in
// whichever letters and form its service has them.
func requestKeys(doc map[string]any) map[string][]string {
	var tags []api.TagRef
	var keys []string
	for name, v := range doc {
		switch list := v.(type) {
		case map[string]any:
			for key, value := range list {
				if strings.EqualFold(name, "tags") {
					tags = append(tags, api.TagRef{Key: key, Value: plain(value)})
				}
			}
		case []any:
			for _, item := range list {
				switch key, isText := item.(string); {
				case strings.EqualFold(name, "tags"):
					tags = append(tags, tagOf(item))
				case strings.EqualFold(name, "tagKeys") && isText:
					keys = append(keys, key)
				}
			}
		}
	}
	if tags == nil && keys != nil {
		return map[string][]string{"aws:tagkeys": keys}
	}
	return requestTags(tags)
}

func tagOf(item any) api.TagRef {
	tag, _ := item.(map[string]any)
	if key := text(tag, "Key"); key != "" {
		return api.TagRef{Key: key, Value: text(tag, "Value")}
	}
	return api.TagRef{Key: text(tag, "key"), Value: text(tag, "value")}
}
