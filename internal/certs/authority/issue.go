package authority

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// Authority is an authority that can sign: its certificate, nil as long as it has
// none, and its key.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// Order is what a certificate is to be.
type Order struct {
	Request  *x509.CertificateRequest
	Template Template
	// Passthrough is what the caller gives beside the request; only templates that
	// pass it through take it.
	Passthrough *pcaapi.APIPassthrough
	Signing     pcaapi.SigningAlgorithm
	Serial      *big.Int
	// NotBefore and NotAfter bound its life. A zero NotBefore is an hour before
	// Now.
	NotBefore, NotAfter, Now time.Time
	// CRL is the URL of the list on which it will be when it is revoked; empty for
	// none.
	CRL string
}

// ErrOrder is the error of an order that contradicts itself or the authority.
var ErrOrder = errors.New("the certificate cannot be issued so")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrOrder, fmt.Sprintf(format, args...))
}

// NewSerial draws a serial number: 16 bytes, positive.
func NewSerial() (*big.Int, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	raw[0] = raw[0]&0x7f | 0x40 // so that it has 16 bytes in every form
	return new(big.Int).SetBytes(raw), nil
}

// Issue makes the certificate, as DER. An order that cannot be fulfilled is an
// ErrOrder.
func Issue(a Authority, o Order) ([]byte, error) {
	own := SameKey(o.Request.PublicKey, a.Key.Public())
	switch {
	case o.Template.root && !own:
		return nil, wrong("the template %s is for the authority's own request", o.Template.Name)
	case a.Certificate == nil && !o.Template.root:
		return nil, wrong("the authority has no certificate yet and can issue only its own, by the template RootCACertificate/V1")
	case o.Template.root:
		a.Certificate = nil // its own issuer, whatever it had before
	}
	template, err := o.certificate(a)
	if err != nil {
		return nil, err
	}
	parent := a.Certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, o.Request.PublicKey, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return der, nil
}

// certificate is what is signed.
func (o *Order) certificate(a Authority) (*x509.Certificate, error) {
	t := o.Template
	c := &x509.Certificate{
		SerialNumber: o.Serial, RawSubject: o.Request.RawSubject, SignatureAlgorithm: signatures[o.Signing],
		NotBefore: o.NotBefore, NotAfter: o.NotAfter, KeyUsage: t.usage, ExtKeyUsage: t.extUsage,
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = o.Now.Add(-skew)
	}
	if err := o.lifetime(c, a.Certificate); err != nil {
		return nil, err
	}
	var err error
	if c.SubjectKeyId, err = keyID(o.Request.PublicKey); err != nil {
		return nil, err
	}
	if err := o.constraints(c, a.Certificate); err != nil {
		return nil, err
	}
	if o.CRL != "" && !t.root {
		c.CRLDistributionPoints = []string{o.CRL}
	}
	if o.Passthrough != nil && !t.api {
		return nil, wrong("the template %s passes nothing of the call through: use one with _APIPassthrough", t.Name)
	}
	if t.api && o.Passthrough != nil && o.Passthrough.Subject != nil {
		if c.RawSubject, err = Subject(*o.Passthrough.Subject); err != nil {
			return nil, wrong("%v", err)
		}
	}
	return c, o.extensions(c)
}

// lifetime holds the certificate's life against its issuer's.
func (o *Order) lifetime(c, issuer *x509.Certificate) error {
	switch {
	case !c.NotAfter.After(c.NotBefore), !c.NotAfter.After(o.Now):
		return wrong("its validity ends at %s, before it begins", c.NotAfter.UTC().Format(time.RFC3339))
	case issuer != nil && c.NotAfter.After(issuer.NotAfter):
		return wrong("The certificate validity specified exceeds the certificate authority validity")
	}
	return nil
}

// constraints are the basic ones. Their extension is written by hand: the library
// always marks it critical.
func (o *Order) constraints(c, issuer *x509.Certificate) error {
	t := o.Template
	if !t.CA {
		der, err := asn1.Marshal(basicConstraints{MaxPathLen: -1})
		if err != nil {
			return fmt.Errorf("encode basic constraints: %w", err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidBasicConstraints, Critical: t.critical, Value: der})
		return nil
	}
	c.BasicConstraintsValid, c.IsCA, c.MaxPathLen = true, true, t.pathLen
	c.MaxPathLenZero = t.pathLen == 0
	if issuer == nil || issuer.MaxPathLen < 0 || issuer.MaxPathLen == 0 && !issuer.MaxPathLenZero {
		return nil
	}
	if t.pathLen >= issuer.MaxPathLen {
		return wrong("below this authority there may be %d authorities, and the template %s allows %d below the next", issuer.MaxPathLen, t.Name, t.pathLen)
	}
	return nil
}

// extensions adds those of the call and of the request: what the template says
// goes first, then the call, then the request.
func (o *Order) extensions(c *x509.Certificate) error {
	t := o.Template
	taken := []asn1.ObjectIdentifier{oidBasicConstraints, oidSubjectKeyID, oidAuthorityKeyID}
	if c.KeyUsage != 0 {
		taken = append(taken, oidKeyUsage)
	}
	if len(c.ExtKeyUsage) > 0 {
		taken = append(taken, oidExtKeyUsage)
	}
	if len(c.CRLDistributionPoints) > 0 {
		taken = append(taken, oidCRLPoints)
	}
	add := func(e pkix.Extension) {
		if !slices.ContainsFunc(taken, e.Id.Equal) {
			taken = append(taken, e.Id)
			c.ExtraExtensions = append(c.ExtraExtensions, e)
		}
	}
	if t.api && o.Passthrough != nil && o.Passthrough.Extensions != nil {
		list, err := apiExtensions(o.Passthrough.Extensions)
		if err != nil {
			return wrong("%v", err)
		}
		for _, e := range list {
			add(e)
		}
	}
	for _, e := range o.Request.Extensions {
		if t.csr || e.Id.Equal(oidSAN) && !t.CA && !t.blank {
			add(e)
		}
	}
	return nil
}
