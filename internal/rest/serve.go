package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path"
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
	id := s.NewID()
	w.Header().Set(headerRequestID, id)
	operation, result, err := s.serve(r, id)
	code := "OK"
	status := http.StatusOK
	switch stream, isStream := result.(streamed); {
	case err != nil:
		status, code = s.fail(w, r, id, err)
	case isStream:
		stream.run(r.Context(), w)
	default:
		reply(w, result)
	}
	took := s.Now().Sub(start)
	if s.Observe != nil {
		s.Observe(operation, code, took)
	}
	if s.AccessLog != nil {
		s.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("request_id", id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.String("operation", operation), slog.Int("status", status), slog.String("code", code),
			slog.Duration("took", took), slog.String("addr", r.RemoteAddr))
	}
}

// serve resolves and runs the operation.
func (s *Server) serve(r *http.Request, id string) (operation string, result any, err error) {
	body, err := readBody(r)
	if err != nil {
		return operationUnresolved, nil, err
	}
	principal := s.Anonymous
	if s.Verify != nil {
		principal, err = s.Verify(r.Context(), auth.Request{
			Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body,
		})
		if err != nil {
			return operationUnresolved, nil, err
		}
	}
	if !s.rates.allow(principal.AccessKeyID, s.Now()) {
		return operationUnresolved, nil, api.Errorf(codeThrottled, "Rate exceeded: this access key made more than %g requests per second; try again, with back-off.", s.Rate)
	}
	e, err := s.resolve(r)
	if err != nil {
		return operationUnresolved, nil, err
	}
	result, err = e.answer(r.Context(), r, body, principal, id)
	return e.binder.op.Name, result, err
}

func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, api.Errorf(api.CodeBadRequest, "The request's body could not be read: %v.", err)
	}
	if len(body) > MaxBody {
		// A client that is still sending would see a broken connection and
		// never the answer.
		_, _ = io.CopyN(io.Discard, r.Body, 8*MaxBody)
		return nil, api.Errorf(codeBodyTooLarge, "The request's body is larger than %d bytes.", MaxBody)
	}
	return body, nil
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
	want := strings.Split(template, "/")
	have := strings.Split(r.URL.EscapedPath(), "/")
	for i, segment := range want {
		if name, ok := strings.CutPrefix(segment, "{"); ok && i < len(have) {
			r.SetPathValue(strings.TrimSuffix(name, "}"), unescape(have[i]))
		}
	}
}

// fail writes an error answer and returns its status and code.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, id string, err error) (status int, code string) {
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
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

func reply(w http.ResponseWriter, result any) {
	w.Header().Set("Content-Type", contentType)
	writeJSON(w, result)
}

// writeJSON ignores a failed write: the client is gone, and there is nobody
// left to tell.
func writeJSON(w http.ResponseWriter, v any) {
	body, err := encode(v)
	if err != nil {
		return
	}
	_, _ = w.Write(body)
}

func seconds(t time.Time) api.Timestamp { return api.Timestamp{Time: t} }
