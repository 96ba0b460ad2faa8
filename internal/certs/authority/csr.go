package authority

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

var (
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidPolicies         = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLPoints        = asn1.ObjectIdentifier{2, 5, 29, 31}
)

type basicConstraints struct {
	IsCA       bool `asn1:"optional"`
	MaxPathLen int  `asn1:"optional,default:-1"`
}

// AuthorityRequest is the request, in PEM, for the certificate of an authority
// that has this key.
func AuthorityRequest(c pcaapi.CertificateAuthorityConfiguration, key crypto.Signer) ([]byte, error) {
	subject, err := Subject(c.Subject)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	constraints, err := asn1.Marshal(basicConstraints{IsCA: true, MaxPathLen: -1})
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	extensions := []pkix.Extension{{Id: oidBasicConstraints, Critical: true, Value: constraints}}
	if x := c.CsrExtensions; x != nil && x.KeyUsage != nil {
		usage, err := keyUsage(x.KeyUsage)
		if err != nil {
			return nil, fmt.Errorf("make request: %w", err)
		}
		extensions = append(extensions, pkix.Extension{Id: oidKeyUsage, Critical: true, Value: usage})
	}
	return request(&x509.CertificateRequest{RawSubject: subject, SignatureAlgorithm: signatures[c.SigningAlgorithm], ExtraExtensions: extensions}, key)
}

// Request is a request, in PEM, for a certificate for DNS names, the first of
// which is its common name.
func Request(names []string, key crypto.Signer) ([]byte, error) {
	subject, err := Subject(CommonName(names[0]))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	return request(&x509.CertificateRequest{RawSubject: subject, DNSNames: names}, key)
}

func request(template *x509.CertificateRequest, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest reads a request in PEM whose signature holds.
func ParseRequest(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, errors.New("it is no certificate request in PEM")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is malformed: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, errors.New("its signature does not hold")
	}
	if KeyAlgorithm(r.PublicKey) == "" {
		return nil, fmt.Errorf("its key: %w", ErrAlgorithm)
	}
	return r, nil
}

// keyUsage is the extension's value; bits stand from the left (RFC 5280,
// 4.2.1.3).
func keyUsage(u *pcaapi.KeyUsage) ([]byte, error) {
	var bits [2]byte
	last := -1
	for i, set := range []*bool{u.DigitalSignature, u.NonRepudiation, u.KeyEncipherment, u.DataEncipherment, u.KeyAgreement, u.KeyCertSign, u.CRLSIgn, u.EncipherOnly, u.DecipherOnly} {
		if set != nil && *set {
			bits[i/8] |= 0x80 >> (i % 8)
			last = i
		}
	}
	der, err := asn1.Marshal(asn1.BitString{Bytes: bits[:last/8+1], BitLength: last + 1})
	if err != nil {
		return nil, fmt.Errorf("encode key usage: %w", err)
	}
	return der, nil
}
