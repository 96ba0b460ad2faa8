package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/certs/identity"
	"github.com/evermesh/evermesh/internal/certs/remote"
	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/service"
)

// crlPath is where lists of revoked certificates are, for whoever checks one.
const crlPath = "/evermesh/crl"

// openCertificates makes ACM and its private CA, and what gives meshes' identities;
// proxies get their certificates from there.
func (d *daemon) openCertificates() {
	d.certs = certs.New(certs.Config{
		Store: d.store, Box: d.keys.Box(), Realm: d.realm(), Authorizer: d.around.authorizer, CRL: d.config.crlURL(),
		Using: d.usingCertificates, Trusting: d.trustingAuthorities, Log: d.log, Now: time.Now,
	})
	d.issued = identity.New(identity.Config{Derive: d.keys.Box().Derive, Authorities: d.certs, Now: time.Now, Resource: func(key api.Key) *api.Resource {
		if s := d.loop.Snapshot(); s != nil {
			return s.Get(key)
		}
		return nil
	}})
}

// elsewherePoll is how often an ACM that is elsewhere is asked for other certificates.
const elsewherePoll = 5 * time.Minute

// certificateIssuer is where proxies' certificates come from: here, or where ACM or its
// private CA are switched to.
func (d *daemon) certificateIssuer(elsewhere map[string]*forward.Service) secrets.Issuer {
	if elsewhere["acm"] == nil && elsewhere["acm-pca"] == nil {
		return d.certs
	}
	return remote.New(remote.Config{
		ACM: elsewhere["acm"], PCA: elsewhere["acm-pca"], Own: d.certs, Account: d.config.Account, Authorizer: d.around.authorizer, Poll: elsewherePoll, Log: d.log,
	})
}

func (d *daemon) acm() (*service.Service, error)    { return d.certs.ACM() }
func (d *daemon) acmPCA() (*service.Service, error) { return d.certs.PCA() }

// crlURL is where certificates say that the lists are; empty where no address can
// be said beforehand.
func (c config) crlURL() string {
	if c.APIAdvertise != "" {
		return strings.TrimSuffix(c.APIAdvertise, "/") + crlPath
	}
	host, port, err := net.SplitHostPort(c.APIListen)
	if err != nil || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return ""
	}
	scheme := "http"
	if c.APITLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + crlPath
}

// usingCertificates are the ARNs of the nodes and gateways that name certificates, by
// these.
func (d *daemon) usingCertificates(ctx context.Context) (map[string][]string, error) {
	s, err := d.loop.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for certificate, list := range s.Using() {
		for _, r := range list {
			out[certificate] = append(out[certificate], d.realm().ARN(r.Key, r.Owner))
		}
	}
	return out, nil
}

// trustingAuthorities are the meshes whose settings name authorities for identities.
func (d *daemon) trustingAuthorities(ctx context.Context) ([]certs.Trusting, error) {
	s, err := d.loop.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	var out []certs.Trusting
	for r := range s.All() {
		if list := r.Settings.IdentityAuthorities; r.Key.Kind == api.KindMesh && len(list) > 0 {
			out = append(out, certs.Trusting{Mesh: d.realm().ARN(r.Key, r.Owner), Authorities: list})
		}
	}
	return out, nil
}

// besideLists is the API with the lists of revoked certificates beside it, on their own
// path: nobody signs for them, so they are none of the API's operations.
func (d *daemon) besideLists(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, crlPath+"/") {
			d.revocations(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// revocations serves lists of revoked certificates, to anybody: what they say is no
// secret, and who checks a certificate signs nothing.
func (d *daemon) revocations(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a list of revoked certificates is read with GET", http.StatusMethodNotAllowed)
		return
	}
	list, err := d.certs.CRL(r.Context(), strings.TrimPrefix(r.URL.Path, crlPath+"/"))
	switch {
	case errors.Is(err, certs.ErrNoList):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		d.log.ErrorContext(r.Context(), "list of revoked certificates was not made", "err", err)
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	_, _ = w.Write(list)
}
