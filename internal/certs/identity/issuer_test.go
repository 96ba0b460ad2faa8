package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/certs/identity"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/secrets"
)

const owner = "111122223333"

var meshKey = api.Key{Owner: owner, Mesh: "shop", Kind: api.KindMesh, Name: "shop"}

func nodeKey(name string) api.Key { return meshKey.In(api.KindVirtualNode, "", name) }

// world is what an issuer knows.
type world struct {
	now       time.Time
	settings  api.MeshSettings
	hostname  string
	authority map[string]certs.Signer
}

func (w *world) Derive(purpose string) ([]byte, error) {
	sum := sha256.Sum256([]byte(purpose))
	return sum[:], nil
}

func (w *world) Resource(key api.Key) *api.Resource {
	switch {
	case key == meshKey:
		return &api.Resource{Key: key, Settings: w.settings}
	case key.Kind == api.KindVirtualNode:
		return &api.Resource{Key: key, Spec: &api.VirtualNodeSpec{ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: w.hostname}}}}
	}
	return nil
}

func (w *world) Signer(arn string) (certs.Signer, error) {
	s, ok := w.authority[arn]
	if !ok {
		return s, api.Errorf(pcaapi.CodeInvalidState, "certificate authority %s cannot issue identities: it is DISABLED", arn)
	}
	return s, nil
}

func (w *world) RootOf(arn string) ([]byte, error) {
	s, err := w.Signer(arn)
	if err != nil {
		return nil, err
	}
	return authority.PEM(s.Authority.Certificate.Raw), nil
}

func (w *world) Follow(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (w *world) issuer() *identity.Issuer {
	return identity.New(identity.Config{Derive: w.Derive, Authorities: w, Resource: w.Resource, Now: func() time.Time { return w.now }})
}

func newWorld() *world {
	return &world{now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), settings: api.MeshSettings{Identity: api.IdentityStrict}, hostname: "orders.shop.local"}
}

func get(t *testing.T, i *identity.Issuer, key api.Key) (secrets.Certificate, *x509.Certificate) {
	t.Helper()
	c, err := i.Identity(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(c.Chain, []byte(string(c.Key)))
	if err != nil {
		t.Fatal(err)
	}
	return c, pair.Leaf
}

func verify(t *testing.T, i *identity.Issuer, key api.Key, leaf *x509.Certificate, now time.Time) error {
	t.Helper()
	trust, err := i.Trust(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(trust) {
		t.Fatalf("no authorities in %s", trust)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	w := newWorld()
	one, two := w.issuer(), w.issuer()
	c, leaf := get(t, one, nodeKey("orders"))
	t.Run("they name node and host, for a day", func(t *testing.T) {
		if got := fmt.Sprint(leaf.URIs, leaf.DNSNames); got != "[spiffe://111122223333/mesh/shop/virtualNode/orders] [orders.shop.local]" {
			t.Error(got)
		}
		if left := leaf.NotAfter.Sub(w.now); left < 12*time.Hour || left > 24*time.Hour {
			t.Errorf("it ends in %s", left)
		}
		if err := verify(t, one, nodeKey("orders"), leaf, w.now); err != nil {
			t.Error(err)
		}
	})
	t.Run("every replica gives the same, and writes nothing", func(t *testing.T) {
		again, _ := get(t, two, nodeKey("orders"))
		if !bytes.Equal(c.Chain, again.Chain) || c.Key != again.Key {
			t.Error("two replicas give two certificates")
		}
		a, _ := one.Trust(t.Context(), meshKey)
		b, _ := two.Trust(t.Context(), meshKey)
		if len(a) == 0 || !bytes.Equal(a, b) {
			t.Error("two replicas trust two authorities")
		}
	})
	t.Run("others have others", func(t *testing.T) {
		other, _ := get(t, one, nodeKey("stock"))
		gateway, leaf := get(t, one, meshKey.In(api.KindVirtualGateway, "", "orders"))
		if other.Key == c.Key || gateway.Key == c.Key || leaf.URIs[0].String() != "spiffe://111122223333/mesh/shop/virtualGateway/orders" {
			t.Error("two have one identity")
		}
	})
	t.Run("a mesh of another account is not trusted", func(t *testing.T) {
		theirs := nodeKey("orders")
		theirs.Owner = "444455556666"
		w := newWorld()
		i := identity.New(identity.Config{Derive: w.Derive, Authorities: w, Now: func() time.Time { return w.now }, Resource: func(key api.Key) *api.Resource {
			key.Owner = owner
			return w.Resource(key)
		}})
		_, leaf := get(t, i, theirs)
		if verify(t, i, nodeKey("orders"), leaf, w.now) == nil {
			t.Error("it is")
		}
	})
}

// 3,000 nodes change their certificates over half a day, each long before its end.
func TestIdentitiesChangeAtDifferentTimes(t *testing.T) {
	t.Parallel()
	const nodes, step = 300, 10 * time.Minute
	w := newWorld()
	i := w.issuer()
	last, most := map[string]string{}, 0
	for at := time.Duration(0); at <= 12*time.Hour; at += step {
		w.now = w.now.Add(step)
		changed := 0
		for n := range nodes {
			name := fmt.Sprint(n)
			c, leaf := get(t, i, nodeKey(name))
			if w.now.Before(leaf.NotBefore) || leaf.NotAfter.Sub(w.now) < 12*time.Hour {
				t.Fatalf("at %s it is valid from %s until %s", w.now, leaf.NotBefore, leaf.NotAfter)
			}
			if last[name] != string(c.Chain) {
				last[name] = string(c.Chain)
				changed++
			}
		}
		if at > 0 {
			most = max(most, changed)
		}
	}
	t.Logf("of %d nodes at most %d change within %s", nodes, most, step)
	if most > nodes/10 {
		t.Errorf("%d of %d change at once", most, nodes)
	}
}

// An authority is replaced while all go on to trust each other.
func TestAuthorityIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld()
	i := w.issuer()
	_, first := get(t, i, nodeKey("orders"))
	w.settings.IdentityAuthorities = []string{"built-in", "built-in/2"}
	_, same := get(t, i, nodeKey("orders"))
	if !same.Equal(first) || verify(t, i, nodeKey("orders"), first, w.now) != nil {
		t.Error("an authority that is trusted beside changed the certificate")
	}
	w.settings.IdentityAuthorities = []string{"built-in/2", "built-in"}
	_, second := get(t, i, nodeKey("orders"))
	if second.Equal(first) || verify(t, i, nodeKey("orders"), first, w.now) != nil || verify(t, i, nodeKey("orders"), second, w.now) != nil {
		t.Error("in the middle not both are trusted")
	}
	w.settings.IdentityAuthorities = []string{"built-in/2"}
	_ = verify(t, i, nodeKey("orders"), second, w.now)
	if verify(t, i, nodeKey("orders"), first, w.now) == nil || verify(t, i, nodeKey("orders"), second, w.now) != nil {
		t.Error("at the end the wrong one is trusted")
	}
}

func TestAuthorityOfPCA(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:acm-pca:us-east-1:111122223333:certificate-authority/00000000-0000-0000-0000-000000000000"
	w := newWorld()
	w.settings.IdentityAuthorities = []string{arn}
	i := w.issuer()
	if _, err := i.Identity(t.Context(), nodeKey("orders")); err == nil || !strings.Contains(err.Error(), "cannot issue identities: it is DISABLED") {
		t.Errorf("an authority that is switched off: %v", err)
	}
	if _, err := i.Trust(t.Context(), nodeKey("orders")); err == nil {
		t.Error("nobody is trusted, and that is no error")
	}
	// One that cannot be trusted takes none of the others along, wherever it is named.
	for _, list := range [][]string{{mesh.BuiltIn, arn}, {arn, mesh.BuiltIn}} {
		w.settings.IdentityAuthorities = []string{mesh.BuiltIn}
		_, leaf := get(t, w.issuer(), nodeKey("orders"))
		w.settings.IdentityAuthorities = list
		if err := verify(t, w.issuer(), nodeKey("orders"), leaf, w.now); err != nil {
			t.Errorf("of %q the built-in one is not trusted: %v", list, err)
		}
	}
	w.settings.IdentityAuthorities = []string{arn}
	key, err := authority.NewKey(pcaapi.KeyAlgorithmRsa2048)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := authority.AuthorityRequest(pcaapi.CertificateAuthorityConfiguration{SigningAlgorithm: pcaapi.SigningAlgorithmSha256withrsa, Subject: authority.CommonName("root")}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := authority.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	template, err := authority.ParseTemplate("aws", "arn:aws:acm-pca:::template/RootCACertificate/V1")
	if err != nil {
		t.Fatal(err)
	}
	serial, err := authority.NewSerial()
	if err != nil {
		t.Fatal(err)
	}
	end := w.now.Add(5 * time.Hour).Truncate(time.Second)
	der, err := authority.Issue(authority.Authority{Key: key}, authority.Order{
		Request: request, Template: template, Signing: pcaapi.SigningAlgorithmSha256withrsa, Serial: serial, Now: w.now, NotBefore: w.now.AddDate(-1, 0, 0), NotAfter: end,
	})
	if err != nil {
		t.Fatal(err)
	}
	own, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	w.authority = map[string]certs.Signer{arn: {Name: arn, Authority: authority.Authority{Certificate: own, Key: key}, Signing: pcaapi.SigningAlgorithmSha256withrsa}}
	c, leaf := get(t, i, nodeKey("orders"))
	if err := verify(t, i, nodeKey("orders"), leaf, w.now); err != nil {
		t.Error(err)
	}
	if !leaf.NotAfter.Equal(end) {
		t.Errorf("it outlives its authority: %s", leaf.NotAfter)
	}
	if again, _ := get(t, w.issuer(), nodeKey("orders")); !bytes.Equal(again.Chain, c.Chain) {
		t.Error("two replicas give two certificates")
	}
}
