package auth

import (
	"net/url"
	"strings"
)

// message is a request in the parts that signing works on.
type message struct {
	method  string
	path    string // as sent: percent-encoded
	query   []parameter
	headers map[string][]string // by lower-case name, host included
	body    []byte
}

// parameter is one name=value of a query, decoded.
type parameter struct{ name, value string }

func read(r Request) (*message, error) {
	path, rawQuery, _ := strings.Cut(r.RequestURI, "?")
	query, err := readQuery(rawQuery)
	if err != nil {
		return nil, err
	}
	m := &message{
		method:  r.Method,
		path:    originForm(path),
		query:   query,
		headers: make(map[string][]string, len(r.Header)+1),
		body:    r.Body,
	}
	for name, values := range r.Header {
		name = strings.ToLower(name)
		m.headers[name] = append(m.headers[name], values...)
	}
	if r.Host != "" {
		m.headers["host"] = []string{r.Host}
	}
	return m, nil
}

// originForm takes scheme and authority off a request target in the absolute
// form, which proxies are sent. An empty path is "/".
func originForm(path string) string {
	if strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://") {
		_, rest, _ := strings.Cut(path, "://")
		_, rest, _ = strings.Cut(rest, "/")
		return "/" + rest
	}
	if path == "" {
		return "/"
	}
	return path
}

// readQuery decodes a query. A plus is a space, as it is to the handlers and to
// the signers of the SDKs, and a name without "=" has the empty value.
func readQuery(raw string) ([]parameter, error) {
	var query []parameter
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		var p parameter
		var err error
		if p.name, err = url.QueryUnescape(name); err != nil {
			return nil, incomplete("Query-string parameter name '%s' is not valid percent-encoding.", shown(name))
		}
		if p.value, err = url.QueryUnescape(value); err != nil {
			return nil, incomplete("Value of query-string parameter '%s' is not valid percent-encoding.", shown(name))
		}
		query = append(query, p)
	}
	return query, nil
}

// header returns the value of a header that may be there once; twice is
// refused, since signer and server could take different ones.
func (m *message) header(name string) (value string, found bool, err error) {
	switch values := m.headers[name]; len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	default:
		return "", false, incomplete("Header '%s' must not be there %d times.", name, len(values))
	}
}

// parameter is header for the query.
func (m *message) parameter(name string) (value string, found bool, err error) {
	for _, p := range m.query {
		if p.name != name {
			continue
		}
		if found {
			return "", false, incomplete("Query-string parameter '%s' must not be there more than once.", name)
		}
		value, found = p.value, true
	}
	return value, found, nil
}
