package rest

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// Codes of faults below any operation, as AWS's front ends name them.
const (
	codeBodyTooLarge    = "RequestEntityTooLargeException"
	codeMediaType       = "UnsupportedMediaTypeException"
	codeMethod          = "MethodNotAllowedException"
	codeThrottled       = api.CodeTooManyRequests
	contentType         = "application/json"
	contentTypeStream   = "application/x-ndjson"
	headerErrorType     = "X-Amzn-ErrorType"
	headerRequestID     = "X-Amzn-RequestId"
	operationUnresolved = "-"
)

// ServeHTTP answers one request. The signature is verified before the mux sees
// the path, because the mux redirects what it would rather see cleaned.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.Now()
	c := &call{op: operationUnresolved, id: s.NewID(), request: r, at: start}
	w.Header().Set(headerRequestID, c.id)
	result, err := s.serve(r, c)
	said := err
	if a, ok := result.(relayed); ok {
		said = a.refusal()
	}
	if kept := s.keep(r.Context(), c, c.answered(result), said); kept != nil {
		result, err = nil, kept
	}
	code := "OK"
	status := http.StatusOK
	switch stream, isStream := result.(streamed); {
	case err != nil:
		status, code = s.fail(w, c, err)
	case isStream:
		stream.run(r.Context(), lasting(w))
	case c.to != nil:
		if status = result.(written).write(w); status >= http.StatusBadRequest {
			code = "Status" + strconv.Itoa(status) // from elsewhere: its codes are many
		}
	default:
		reply(w, result)
	}
	took := s.Now().Sub(start)
	if s.Observe != nil {
		s.Observe(c.label(), code, took)
	}
	if s.AccessLog != nil {
		s.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request", c.access(r, status, code, took)...)
	}
}

// label is what metrics and the access log call the operation: CreateMesh, and those of
// services around the mesh as policies do, iam:CreateUser.
func (c *call) label() string {
	if c.to == nil || c.op == operationUnresolved {
		return c.op
	}
	return c.to.service.Prefix + ":" + c.op
}

// access is a request's line in the access log. It has what the caller is known
// by, and nothing that it proved it with.
func (c *call) access(r *http.Request, status int, code string, took time.Duration) []slog.Attr {
	line := []slog.Attr{
		slog.String("request_id", c.id), slog.String("method", r.Method), slog.String("path", shortened(r.URL.Path)),
		slog.String("operation", c.label()), slog.Int("status", status), slog.String("code", code),
		slog.Duration("took", took), slog.String("addr", r.RemoteAddr),
	}
	if c.principal != (auth.Principal{}) {
		line = append(line, slog.String("principal", c.principal.ARN), slog.String("access_key", c.principal.AccessKeyID))
	}
	if c.key != (api.Key{}) {
		line = append(line, slog.String("mesh", c.key.Mesh), slog.String("key", c.key.String()))
	}
	return line
}

// shortened keeps a line of the log readable, whatever path was asked for.
func shortened(path string) string {
	const most = 512
	if len(path) <= most {
		return path
	}
	return path[:most] + "..."
}

// serve resolves and runs the operation; c learns who calls what.
func (s *Server) serve(r *http.Request, c *call) (result any, err error) {
	body, done, err := s.bodies.read(r)
	if err != nil {
		return nil, err
	}
	defer done()
	c.to = s.route(r, body)
	if err := s.Memory.Decide(r.Context(), func() error { return s.verify(r, body, c) }); err != nil {
		return nil, err
	}
	if err := s.Throttle(r, c.principal); err != nil {
		return nil, err
	}
	known := *c
	err = s.Memory.Decide(r.Context(), func() (err error) {
		*c = known
		result, err = s.operate(r, body, c)
		return err
	})
	return result, err
}

// operate finds the operation and does it; what it refuses it has not done.
func (s *Server) operate(r *http.Request, body []byte, c *call) (any, error) {
	if c.to != nil {
		return s.run(r.Context(), r, c)
	}
	e, err := s.resolve(r)
	if err != nil {
		return nil, err
	}
	c.op = e.binder.op.Name
	return e.answer(r.Context(), r, body, c)
}

// resolve finds the operation of a request.
func (s *Server) resolve(r *http.Request) (*endpoint, error) {
	if escaped := r.URL.EscapedPath(); path.Clean("/"+escaped) != escaped {
		return nil, api.Errorf(api.CodeBadRequest, "The path %q has empty, '.' or '..' segments: a resource's name may not be one of these.", escaped)
	}
	h, pattern := s.mux.Handler(r)
	e, ok := h.(*endpoint)
	if ok {
		// Handler does not fill the path values; a routed copy does.
		setPathValues(r, pattern)
		return e, nil
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if h, _ := s.mux.Handler(other); method != r.Method {
			if _, ok := h.(*endpoint); ok {
				return nil, api.Errorf(codeMethod, "The path %s does not take method %s.", r.URL.Path, r.Method)
			}
		}
	}
	return nil, api.Errorf(api.CodeUnknownOperation, "No operation is reached by %s %s. The API's version is 2019-01-25: paths begin with /v20190125/.", r.Method, r.URL.Path)
}

// setPathValues fills r's path values from its escaped path; the pattern's
// wildcards are whole segments.
func setPathValues(r *http.Request, pattern string) {
	_, template, _ := strings.Cut(pattern, " ")
	path, more := r.URL.EscapedPath(), true
	for segment := range strings.SplitSeq(template, "/") {
		if !more {
			return
		}
		var have string
		have, path, more = strings.Cut(path, "/")
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			r.SetPathValue(strings.TrimSuffix(name, "}"), unescape(have))
		}
	}
}

// answered is what a record tells of an answer; nil of one that was rendered, or
// that goes on.
func (c *call) answered(result any) any {
	if c.to != nil {
		return c.out
	}
	if _, ok := result.(streamed); ok {
		return nil
	}
	return result
}

// fail writes an error answer and returns its status and code.
func (s *Server) fail(w http.ResponseWriter, c *call, err error) (status int, code string) {
	r, id := c.request, c.id
	var known *api.Error
	switch {
	case errors.As(err, &known):
	case r.Context().Err() != nil:
		// The client left, or the server is stopping: no fault to log.
		known = api.Errorf(api.CodeServiceUnavailable, "The request was given up before it was answered.")
	default:
		s.Log.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("request_id", id), slog.String("path", r.URL.Path), slog.Any("err", err))
		known = api.Errorf(api.CodeInternalServerError, "Evermesh could not answer because of a fault of its own. Its log tells more under request id %s.", id)
	}
	to := c.to
	if to == nil {
		to = foreign(r)
	}
	if to != nil {
		return to.refuse(w, id, known)
	}
	status = statusOf(known)
	w.Header().Set(headerErrorType, known.Code)
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	writeJSON(w, map[string]string{"message": known.Message})
	return status, known.Code
}

func statusOf(e *api.Error) int {
	switch e.Code {
	case codeBodyTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeMediaType:
		return http.StatusUnsupportedMediaType
	case codeMethod:
		return http.StatusMethodNotAllowed
	}
	return e.Status()
}

// encode is the one way in which this package writes JSON: without HTML
// escapes, so that a document comes back as it was sent.
func encode(v any) ([]byte, error) {
	if text, ok := v.(json.RawMessage); ok {
		return text, nil // it was encoded here
	}
	return api.AppendDocument(make([]byte, 0, 512), v)
}

func reply(w http.ResponseWriter, result any) {
	w.Header().Set("Content-Type", contentType)
	writeJSON(w, result)
}

// writeJSON ignores a failed write: the client is gone, and there is nobody
// left to tell.
func writeJSON(w http.ResponseWriter, v any) {
	if body, err := encode(v); err == nil {
		_, _ = w.Write(body)
	}
}

func seconds(t time.Time) api.Timestamp { return api.Timestamp{Time: t} }
