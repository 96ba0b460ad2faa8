// Package remote gives Envoy certificates and authorities of an ACM, or of a private
// CA, that is elsewhere, such as AWS's own (--aws-service).
//
// Issuer is a secrets.Issuer. It asks with the control plane's own credentials, after
// the policies here were asked about the proxy's principal. What it was answered it
// keeps in memory, and asks every few minutes whether it is another: nobody tells it.
package remote

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/secrets"
)

// Config is what an Issuer needs.
type Config struct {
	// ACM and PCA are those that are elsewhere; what is nil is asked of Own.
	ACM, PCA *forward.Service
	Own      secrets.Issuer
	// Account is the one whose principals may have what is elsewhere.
	Account    string
	Authorizer auth.Authorizer
	// Poll is how often it is asked for changes.
	Poll time.Duration
	Log  *slog.Logger
}

// Issuer is a secrets.Issuer. Its methods may be called from any goroutine.
type Issuer struct {
	config Config

	mu   sync.Mutex
	kept map[string]*answer // by ARN
}

// answer is what was answered about an ARN; err is a refusal.
type answer struct {
	text        string // of the certificate with its chain
	root        []byte
	certificate secrets.Certificate // as far as it was asked for
	err         error
}

var _ secrets.Issuer = (*Issuer)(nil)

// New makes an Issuer.
func New(c Config) *Issuer { return &Issuer{config: c, kept: map[string]*answer{}} }

const (
	acm = "CertificateManager."
	pca = "ACMPrivateCA."
)

// call does an operation and reads what is answered. A refusal is an *api.Error.
func call(ctx context.Context, to *forward.Service, target, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s: %w", operation, err)
	}
	header := http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {target + operation}}
	got, err := to.Send(ctx, operation, http.MethodPost, "/", header, body)
	if err != nil {
		return fmt.Errorf("%s elsewhere: %w", operation, err)
	}
	if got.Status >= http.StatusInternalServerError {
		return fmt.Errorf("%s elsewhere: status %d", operation, got.Status)
	}
	if got.Status >= http.StatusBadRequest {
		var refusal struct {
			Type    string `json:"__type"`
			Message string `json:"message"`
			Capital string `json:"Message"`
		}
		_ = json.Unmarshal(got.Body, &refusal) // else it is told by its status
		code := refusal.Type[strings.LastIndexByte(refusal.Type, '#')+1:]
		if code == "" {
			code = fmt.Sprintf("Status%d", got.Status)
		}
		if strings.HasPrefix(code, "Throttling") {
			return fmt.Errorf("%s elsewhere: %s", operation, code) // and is asked again
		}
		return api.Errorf(code, "%s elsewhere: %s%s", operation, refusal.Message, refusal.Capital)
	}
	if err := json.Unmarshal(got.Body, out); err != nil {
		return fmt.Errorf("read answer of %s elsewhere: %w", operation, err)
	}
	return nil
}

// chained is an answer of one certificate and those above it.
type chained struct{ Certificate, CertificateChain string }

// Certificate satisfies secrets.Issuer.
func (i *Issuer) Certificate(ctx context.Context, p auth.Caller, arn string) (secrets.Certificate, error) {
	if i.config.ACM == nil {
		return i.config.Own.Certificate(ctx, p, arn)
	}
	if err := i.allow(ctx, p, "acm:ExportCertificate", arn); err != nil {
		return secrets.Certificate{}, err
	}
	i.mu.Lock()
	held := i.kept[arn]
	i.mu.Unlock()
	if held != nil && len(held.certificate.Chain) > 0 {
		return held.certificate, nil
	}
	c, err := i.export(ctx, arn)
	known, err := i.keep(arn, err, func(a *answer) { a.certificate, a.text = c, string(c.Chain) })
	return known.certificate, err
}

// export has a certificate exported with its key, under a passphrase that nobody
// learns.
func (i *Issuer) export(ctx context.Context, arn string) (secrets.Certificate, error) {
	passphrase := make([]byte, 24)
	if _, err := rand.Read(passphrase); err != nil {
		return secrets.Certificate{}, fmt.Errorf("draw passphrase: %w", err)
	}
	text := []byte(base64.RawURLEncoding.EncodeToString(passphrase))
	var out struct {
		chained
		PrivateKey auth.Secret
	}
	if err := call(ctx, i.config.ACM, acm, "ExportCertificate", map[string]any{"CertificateArn": arn, "Passphrase": text}, &out); err != nil {
		return secrets.Certificate{}, err
	}
	key, err := authority.DecryptKey([]byte(string(out.PrivateKey)), text)
	if err != nil {
		return secrets.Certificate{}, err
	}
	plain, err := authority.MarshalKey(key)
	if err != nil {
		return secrets.Certificate{}, err
	}
	return secrets.Certificate{Chain: []byte(out.joined()), Key: auth.Secret(plain)}, nil
}

func (c chained) joined() string {
	return strings.TrimSpace(strings.TrimSpace(c.Certificate)+"\n"+strings.TrimSpace(c.CertificateChain)) + "\n"
}

// Authority satisfies secrets.Issuer.
func (i *Issuer) Authority(ctx context.Context, p auth.Caller, arn string) ([]byte, error) {
	if i.config.PCA == nil {
		return i.config.Own.Authority(ctx, p, arn)
	}
	if err := i.allow(ctx, p, "acm-pca:GetCertificateAuthorityCertificate", arn); err != nil {
		return nil, err
	}
	a, err := i.known(ctx, arn)
	if err != nil {
		return nil, err
	}
	all, err := authority.ParseCertificates([]byte(a.text))
	if err != nil || len(all) == 0 {
		return nil, fmt.Errorf("read certificate of %s: %w", arn, err)
	}
	return authority.PEM(all[0].Raw), nil
}

// Root satisfies secrets.Issuer.
func (i *Issuer) Root(ctx context.Context, p auth.Caller, certificate string) ([]byte, error) {
	if i.config.ACM == nil {
		return i.config.Own.Root(ctx, p, certificate)
	}
	a, err := i.known(ctx, certificate)
	return a.root, err
}

// known is what is known of an ARN, which is asked for if nothing is.
func (i *Issuer) known(ctx context.Context, arn string) (answer, error) {
	i.mu.Lock()
	held := i.kept[arn]
	i.mu.Unlock()
	if held != nil && held.err == nil && held.text != "" {
		return *held, nil
	}
	text, err := i.look(ctx, arn)
	return i.keep(arn, err, func(a *answer) { a.text = text })
}

// look asks what certificate is behind an ARN.
func (i *Issuer) look(ctx context.Context, arn string) (string, error) {
	var out chained
	to, target, operation, member := i.config.ACM, acm, "GetCertificate", "CertificateArn"
	if strings.Contains(arn, ":acm-pca:") {
		to, target, operation, member = i.config.PCA, pca, "GetCertificateAuthorityCertificate", "CertificateAuthorityArn"
	}
	if to == nil {
		return "", api.Errorf(api.CodeBadRequest, "%s is of a service that is not elsewhere", arn)
	}
	err := call(ctx, to, target, operation, map[string]any{member: arn}, &out)
	return out.joined(), err
}

// keep notes what was answered about an ARN. What says nothing about it, such as a
// silence, leaves what was known.
func (i *Issuer) keep(arn string, err error, good func(*answer)) (answer, error) {
	refused := false
	if err != nil {
		if _, refused = err.(*api.Error); !refused { //nolint:errorlint // it is made here
			return answer{}, err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	a := &answer{err: err}
	if held := i.kept[arn]; held != nil && !refused {
		a.certificate, a.text = held.certificate, held.text
	}
	if !refused {
		good(a)
		all, wrong := authority.ParseCertificates([]byte(a.text))
		if wrong != nil || len(all) == 0 {
			return answer{}, fmt.Errorf("read certificate of %s: it is none", arn)
		}
		a.root = authority.PEM(all[len(all)-1].Raw)
	}
	i.kept[arn] = a
	return *a, err
}

func (i *Issuer) allow(ctx context.Context, p auth.Caller, action, arn string) error {
	if p.Account != i.config.Account {
		return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s: it is elsewhere, and for account %s alone", p.ARN, action, arn, i.config.Account)
	}
	return i.config.Authorizer.Authorize(ctx, auth.Question{Principal: p.Principal, Action: action, Resource: arn, Keys: p.Keys})
}

// Follow satisfies secrets.Issuer.
func (i *Issuer) Follow(ctx context.Context, changed func(arn string)) error {
	var own sync.WaitGroup
	defer own.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	own.Go(func() { _ = i.config.Own.Follow(ctx, changed) })
	tick := time.NewTicker(i.config.Poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, arn := range i.others(ctx) {
			changed(arn)
		}
	}
}

// others are the ARNs behind which is another certificate than is known, or about
// which there was a refusal: that may be over.
func (i *Issuer) others(ctx context.Context) []string {
	i.mu.Lock()
	texts := make(map[string]string, len(i.kept))
	for arn, a := range i.kept {
		texts[arn] = a.text
		if a.err != nil {
			texts[arn] = ""
		}
	}
	i.mu.Unlock()
	var out []string
	for arn, text := range texts {
		now, err := i.look(ctx, arn)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && text != "":
			i.config.Log.WarnContext(ctx, "certificate elsewhere was not looked at, proxies keep what they have", "key", arn, "err", err)
		case err == nil && now != text:
			i.mu.Lock()
			delete(i.kept, arn)
			i.mu.Unlock()
			out = append(out, arn)
		}
	}
	return out
}
