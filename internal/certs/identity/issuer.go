package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/secrets"
)

// Config is what New needs; all of it is required.
type Config struct {
	// Derive makes a key that all replicas have and nobody else; seal.Box has it.
	Derive func(purpose string) ([]byte, error)
	// Authorities has those of ACM PCA; *certs.Registry is one.
	Authorities Authorities
	// Resource is what a mesh, node or gateway is now; nil when it does not exist.
	Resource func(api.Key) *api.Resource
	Now      func() time.Time
}

// Authorities has the authorities of ACM PCA by their ARNs.
type Authorities interface {
	// Signer is an authority that may issue, of this replica alone; else its error,
	// an *api.Error, says why not.
	Signer(arn string) (certs.Signer, error)
	// RootOf is the PEM of the root above an authority.
	RootOf(arn string) ([]byte, error)
	// Follow is secrets.Issuer's.
	Follow(ctx context.Context, changed func(arn string)) error
}

// Issuer issues identities. It satisfies secrets.Identities.
type Issuer struct {
	config Config
	moved  chan struct{} // settings may be others

	mu     sync.Mutex
	given  map[api.Key]given
	meshes map[api.Key]api.MeshSettings // as they were when something was given
	built  map[string]certs.Signer      // by account and generation
}

// given is what a client has.
type given struct {
	slot        int64
	from        string // which authority and names it is made of
	certificate secrets.Certificate
}

var _ secrets.Identities = (*Issuer)(nil)

// New makes an Issuer.
func New(c Config) *Issuer {
	return &Issuer{
		config: c, moved: make(chan struct{}, 1), given: map[api.Key]given{}, meshes: map[api.Key]api.MeshSettings{}, built: map[string]certs.Signer{},
	}
}

// settings are the mesh's. Where it gives no identities any more they are those of
// before: proxies use theirs until all have followed (D6.3).
func (i *Issuer) settings(client api.Key) (api.MeshSettings, error) {
	key := client.MeshKey()
	m := i.config.Resource(key)
	if m == nil {
		return api.MeshSettings{}, api.Errorf(api.CodeBadRequest, "mesh %s does not exist", client.Mesh)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if mesh.IdentityOn(m) {
		i.meshes[key] = m.Settings
	} else if before, ok := i.meshes[key]; ok {
		return before, nil
	}
	return m.Settings, nil
}

// Identity satisfies secrets.Identities. What it gives is the same at every replica.
func (i *Issuer) Identity(_ context.Context, client api.Key) (secrets.Certificate, error) {
	s, err := i.settings(client)
	if err != nil {
		return secrets.Certificate{}, err
	}
	by, err := i.signer(client.Owner, mesh.Authorities(s)[0])
	if err != nil {
		return secrets.Certificate{}, err
	}
	id, name := mesh.Identity(client), hostName(i.config.Resource(client))
	now := i.config.Now()
	n, begins := slot(id, now)
	from := by.Name + " " + name
	i.mu.Lock()
	defer i.mu.Unlock()
	if g, ok := i.given[client]; ok && g.slot == n && g.from == from {
		return g.certificate, nil
	}
	c, err := i.issue(by, id, name, n, begins, now)
	if err != nil {
		return secrets.Certificate{}, err
	}
	i.given[client] = given{n, from, c}
	return c, nil
}

// hostName is the client's name in discovery, or "".
func hostName(r *api.Resource) string {
	spec := r.VirtualNodeSpec()
	if spec == nil || spec.ServiceDiscovery == nil {
		return ""
	}
	switch d := spec.ServiceDiscovery; {
	case d.DNS != nil:
		return strings.TrimSuffix(d.DNS.Hostname, ".")
	case d.AWSCloudMap != nil:
		return d.AWSCloudMap.ServiceName + "." + d.AWSCloudMap.NamespaceName
	}
	return ""
}

func (i *Issuer) issue(by certs.Signer, id, name string, n int64, begins, now time.Time) (secrets.Certificate, error) {
	secret, err := i.config.Derive("identities")
	if err != nil {
		return secrets.Certificate{}, err
	}
	purpose := fmt.Sprintf("%s %d", id, n)
	key, err := keyOf(secret, purpose)
	if err != nil {
		return secrets.Certificate{}, err
	}
	template, err := authority.ParseTemplate("aws", "arn:aws:acm-pca:::template/EndEntityCertificate_APIPassthrough/V1")
	if err != nil {
		return secrets.Certificate{}, err
	}
	names := []pcaapi.GeneralName{{UniformResourceIdentifier: &id}}
	if isHostName(name) {
		names = append(names, pcaapi.GeneralName{DNSName: &name})
	}
	organization := "Evermesh" // SPIFFE ids stand in the names alone
	subject, err := authority.Subject(pcaapi.ASN1Subject{Organization: &organization})
	if err != nil {
		return secrets.Certificate{}, err
	}
	order := authority.Order{
		Request: &x509.CertificateRequest{PublicKey: key.Public(), RawSubject: subject}, Template: template,
		Passthrough: &pcaapi.APIPassthrough{Extensions: &pcaapi.Extensions{SubjectAlternativeNames: names}},
		Signing:     by.Signing, Serial: serialOf(secret, purpose+" "+by.Name), NotBefore: begins.Add(-skew), NotAfter: begins.Add(life), Now: now,
	}
	if end := by.Authority.Certificate.NotAfter; order.NotAfter.After(end) {
		order.NotAfter = end
	}
	der, err := authority.Issue(by.Authority, order)
	if err != nil {
		return secrets.Certificate{}, err
	}
	plain, err := authority.MarshalKey(key.(steady).PrivateKey)
	if err != nil {
		return secrets.Certificate{}, err
	}
	chain := authority.PEM(der)
	if !authority.SelfSigned(by.Authority.Certificate) {
		chain = slices.Concat(chain, []byte(by.Chain))
	}
	return secrets.Certificate{Chain: chain, Key: auth.Secret(plain)}, nil
}

// isHostName says whether a name may stand in a certificate as one of DNS.
func isHostName(name string) bool {
	return name != "" && len(name) <= 253 && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-._") == ""
}

// Trust satisfies secrets.Identities: the roots above all authorities of the mesh. One
// that cannot be trusted any more is left out, for all others to be; with none left it
// is an error.
func (i *Issuer) Trust(_ context.Context, client api.Key) ([]byte, error) {
	s, err := i.settings(client)
	if err != nil {
		return nil, err
	}
	var out []byte
	var unusable error
	for _, name := range mesh.Authorities(s) {
		root, err := i.root(client.Owner, name)
		if err != nil {
			unusable = err
			continue
		}
		out = append(out, root...)
	}
	if len(out) == 0 {
		return nil, unusable
	}
	return out, nil
}

func (i *Issuer) root(account, name string) ([]byte, error) {
	if _, ours := mesh.Generation(name); !ours {
		return i.config.Authorities.RootOf(name)
	}
	s, err := i.signer(account, name)
	if err != nil {
		return nil, err
	}
	return authority.PEM(s.Authority.Certificate.Raw), nil
}

// signer is the authority of that name, of the account that owns the mesh.
func (i *Issuer) signer(account, name string) (certs.Signer, error) {
	n, ours := mesh.Generation(name)
	if !ours {
		return i.config.Authorities.Signer(name)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	at := fmt.Sprintf("%s %d", account, n)
	if s, ok := i.built[at]; ok {
		return s, nil
	}
	s, err := i.build(at, account)
	if err == nil {
		i.built[at] = s
	}
	return s, err
}

// The built-in authorities are valid from and until these times: they follow from
// nothing.
var (
	builtFrom  = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	builtUntil = time.Date(2075, 1, 1, 0, 0, 0, 0, time.UTC)
)

// build makes a built-in authority: a root, whose key follows from the shared secret.
func (i *Issuer) build(at, account string) (certs.Signer, error) {
	secret, err := i.config.Derive("identity authorities")
	if err != nil {
		return certs.Signer{}, err
	}
	key, err := keyOf(secret, at)
	if err != nil {
		return certs.Signer{}, err
	}
	subject, err := authority.Subject(authority.CommonName("Evermesh identities of " + at))
	if err != nil {
		return certs.Signer{}, err
	}
	template, err := authority.ParseTemplate("aws", "arn:aws:acm-pca:::template/RootCACertificate/V1")
	if err != nil {
		return certs.Signer{}, err
	}
	const signing = pcaapi.SigningAlgorithmSha256withecdsa
	der, err := authority.Issue(authority.Authority{Key: key}, authority.Order{
		Request: &x509.CertificateRequest{PublicKey: key.Public(), RawSubject: subject}, Template: template, Signing: signing,
		Serial: serialOf(secret, "authority "+at), NotBefore: builtFrom, NotAfter: builtUntil, Now: i.config.Now(),
	})
	if err != nil {
		return certs.Signer{}, err
	}
	own, err := x509.ParseCertificate(der)
	if err != nil {
		return certs.Signer{}, fmt.Errorf("read built-in authority of account %s: %w", account, err)
	}
	return certs.Signer{Name: "built-in " + at, Authority: authority.Authority{Certificate: own, Key: key}, Signing: signing}, nil
}

// renewEvery is how often it is looked whose certificate is to be another.
const renewEvery = time.Minute

// Look has it looked whether settings are others; it returns at once.
func (i *Issuer) Look() {
	select {
	case i.moved <- struct{}{}:
	default:
	}
}

// Follow satisfies secrets.Identities.
func (i *Issuer) Follow(ctx context.Context, changed func(mesh string)) error {
	authorities := make(chan string)
	var follower sync.WaitGroup
	defer follower.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	follower.Go(func() {
		_ = i.config.Authorities.Follow(ctx, func(arn string) {
			select {
			case authorities <- arn:
			case <-ctx.Done():
			}
		})
	})
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		var which []api.Key
		select {
		case <-tick.C:
			which = i.old(i.config.Now())
		case <-i.moved:
			which = i.others()
		case arn := <-authorities:
			which = i.of(arn)
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, key := range which {
			changed(key.Owner + "/" + key.Mesh)
		}
	}
}

// old are the meshes of which some client is to have another certificate. Those of
// whom nobody asked since are forgotten.
func (i *Issuer) old(now time.Time) []api.Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []api.Key
	for client, g := range i.given {
		n, _ := slot(mesh.Identity(client), now)
		if n == g.slot {
			continue
		}
		delete(i.given, client)
		if key := client.MeshKey(); !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	return out
}

// others are the meshes whose settings are not those of before.
func (i *Issuer) others() []api.Key {
	i.mu.Lock()
	known := maps.Clone(i.meshes)
	i.mu.Unlock()
	var out []api.Key
	for key, s := range known {
		m := i.config.Resource(key)
		if m != nil && (!mesh.IdentityOn(m) || slices.Equal(mesh.Authorities(m.Settings), mesh.Authorities(s))) {
			continue
		}
		out = append(out, key)
		i.mu.Lock()
		delete(i.meshes, key)
		i.mu.Unlock()
	}
	return out
}

// of are the meshes that name an authority.
func (i *Issuer) of(arn string) []api.Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []api.Key
	for key, s := range i.meshes {
		if arn == "" || slices.Contains(s.IdentityAuthorities, arn) {
			out = append(out, key)
		}
	}
	return out
}
