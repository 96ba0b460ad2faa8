package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// fetchWait bounds discovery and keys together.
	fetchWait = 5 * time.Second
	// maxDocument bounds each document, in bytes; maxKeys how many keys count.
	maxDocument = 256 << 10
	maxKeys     = 100
	// minRSA is the least length of an RSA key, in bits.
	minRSA = 2048
)

// errNotFetched is wrapped by what went wrong with an issuer. It is for the log alone,
// as it tells of the network that this process sees.
var errNotFetched = errors.New("fetch keys of identity provider")

// fetcher fetches keys over HTTPS.
type fetcher struct {
	caFile string // see Config
}

// fetch asks an issuer for its keys: first its discovery document, which must name the
// issuer as the token does, then the keys that it points to.
func (f *fetcher) fetch(ctx context.Context, issuer string) ([]jose.JSONWebKey, error) {
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	var found struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := get(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", &found); err != nil {
		return nil, err
	}
	if found.Issuer != issuer {
		return nil, fmt.Errorf("%w: discovery of %q names issuer %q", errNotFetched, issuer, shown(found.Issuer))
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := get(ctx, client, found.Keys, &set); err != nil {
		return nil, err
	}
	return usable(set.Keys), nil
}

// client is for one fetch: the authorities may be others at the next. It follows no
// redirect, as a public address could then point into this network.
func (f *fetcher) client() (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return nil, fmt.Errorf("read --oidc-ca-file: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read --oidc-ca-file: %s holds no certificate in PEM", f.caFile)
		}
	}
	dialer := &net.Dialer{Timeout: fetchWait, Control: refuseLocal}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		},
	}, nil
}

// refuseLocal keeps fetches away from link-local addresses, where clouds have their
// metadata.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%w: %s is no address of an identity provider", errNotFetched, host)
	}
	return nil
}

func get(ctx context.Context, client *http.Client, address string, into any) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%w: %q is no https address", errNotFetched, shown(address))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotFetched, err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotFetched, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNotFetched, err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: %s answers %s", errNotFetched, u.Redacted(), resp.Status)
	case len(text) > maxDocument:
		return fmt.Errorf("%w: the document at %s is larger than %d bytes", errNotFetched, u.Redacted(), maxDocument)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: read %s: %w", errNotFetched, u.Redacted(), err)
	}
	return nil
}

// usable are the keys that signatures are verified with; others in the set are nobody's
// fault.
func usable(set []json.RawMessage) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, text := range set[:min(len(set), maxKeys)] {
		var key jose.JSONWebKey
		if err := json.Unmarshal(text, &key); err != nil || !key.IsPublic() || !key.Valid() || key.Use != "" && key.Use != "sig" {
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// fits says whether a key is of the kind and size that the algorithm takes.
func fits(key any, algorithm string) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA && (strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS"))
	case *ecdsa.PublicKey:
		return algorithm == string(jose.ES256) && k.Curve == elliptic.P256() || algorithm == string(jose.ES384) && k.Curve == elliptic.P384()
	}
	return false
}
