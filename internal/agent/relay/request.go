package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

const (
	// maxAnswer bounds the answer to a request, in bytes.
	maxAnswer = 1 << 20
	// maxReason bounds what an error repeats of an answer, in bytes.
	maxReason = 512
)

// Do makes one HTTP/1.1 request without a body, proven as a stream is, to the first endpoint that answers, and returns
// the body of its answer. path may have a query. An answer of 500 and above is a replica's trouble, so the next
// address is asked; any other one that is not 2xx is an error at once, as all replicas would say the same. An error
// names each endpoint that was tried and its answer. Whether that endpoint served streams last makes no difference:
// each address is tried once, with connectWait for the connection, and ctx bounds the whole.
func (r *Relay) Do(ctx context.Context, method, path string) ([]byte, error) {
	target, err := url.Parse(path)
	if err != nil || !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("ask the control plane: %q is no path", path)
	}
	var failed []error
	for _, e := range r.upstreams.order() {
		addresses, unknown := r.upstreams.addresses(ctx, e)
		if unknown != nil {
			failed = append(failed, fmt.Errorf("%s: %s", e, unknown.what()))
			continue
		}
		for _, address := range addresses {
			body, final, err := r.upstreams.ask(ctx, e, address, method, target)
			if err == nil {
				return body, nil
			}
			if final {
				return nil, fmt.Errorf("ask the control plane: %w", err)
			}
			failed = append(failed, err)
			if ctx.Err() != nil {
				return nil, fmt.Errorf("ask the control plane: %w", errors.Join(failed...))
			}
		}
	}
	return nil, fmt.Errorf("ask the control plane: %w", errors.Join(failed...))
}

// ask asks one address of e, again when this machine's clock was all that was wrong. final says that others would answer
// the same.
func (u *upstreams) ask(ctx context.Context, e settings.Endpoint, address, method string, target *url.URL) (body []byte, final bool, err error) {
	body, status, err := u.request(ctx, e, address, method, target)
	if err == nil && status == http.StatusForbidden && skewed.Match(body) && u.signer.refused(e, string(body)) {
		body, status, err = u.request(ctx, e, address, method, target)
	}
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("%s at %s: %w", e, address, err)
	case status >= http.StatusMultipleChoices:
		return nil, status < http.StatusInternalServerError, fmt.Errorf("%s at %s: answered %d %s: %s", e, address, status, http.StatusText(status), reason(body))
	}
	return body, false, nil
}

// request asks one address of e; status is 0 without an answer.
func (u *upstreams) request(ctx context.Context, e settings.Endpoint, address, method string, target *url.URL) (body []byte, status int, err error) {
	scheme := "http"
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, TLSHandshakeTimeout: connectWait,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return u.dialer.DialContext(ctx, e.Network, address)
		},
	}
	if e.TLS {
		scheme = "https"
		if transport.TLSClientConfig, err = tlsConfig(u.caFile, u.signer.proof, u.bounds.Curves); err != nil {
			return nil, 0, err
		}
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	header, err := u.signer.signRequest(ctx, e, method, target)
	if err != nil {
		return nil, 0, err
	}
	ask := &http.Request{
		Method: method, Host: e.Authority, Header: header,
		URL: &url.URL{Scheme: scheme, Host: e.Authority, Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
	}
	ask.Header.Set("User-Agent", u.userAgent)
	answer, err := transport.RoundTrip(ask.WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read answer: %w", err)
	case len(body) > maxAnswer:
		return nil, 0, fmt.Errorf("read answer: it has more than %d bytes", maxAnswer)
	}
	return body, answer.StatusCode, nil
}

// reason is what a line may repeat of an answer.
func reason(body []byte) string {
	if len(body) > maxReason {
		body = body[:maxReason]
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(body), "?")), " ")
}
