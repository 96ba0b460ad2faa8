package authority

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// PEM is a certificate's text.
func PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// mostCertificates is how many certificates a chain may have.
const mostCertificates = 16

// ParseCertificates reads certificates in PEM, and nothing else; none is no error.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		block, after, ok := cutPEM(rest)
		if !ok || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is not PEM of certificates alone")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("it is malformed: %w", err)
		}
		if out = append(out, c); len(out) > mostCertificates {
			return nil, fmt.Errorf("it has more than %d certificates", mostCertificates)
		}
		rest = bytes.TrimSpace(after)
	}
	return out, nil
}

// ParseCertificate reads one certificate in PEM.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	all, err := ParseCertificates(text)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("it has %d certificates, want one", len(all))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// CheckChain says whether each certificate was issued by the next, in this order,
// and all may be so now. Whether anybody trusts the last one is not asked.
func CheckChain(leaf *x509.Certificate, chain []*x509.Certificate, now time.Time) error {
	below := leaf
	for i, c := range chain {
		switch err := below.CheckSignatureFrom(c); {
		case err != nil:
			return fmt.Errorf("certificate %d of the chain did not issue the one before it: %w", i+1, err)
		case now.After(c.NotAfter):
			return fmt.Errorf("certificate %d of the chain has expired", i+1)
		}
		below = c
	}
	return nil
}

// SelfSigned says whether a certificate is its own issuer.
func SelfSigned(c *x509.Certificate) bool {
	// Not CheckSignatureFrom: who signs for itself alone need not be an authority.
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// SerialText is a serial number as AWS writes it: 3f:9b:….
func SerialText(n *big.Int) string {
	digits := SerialID(n)
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// SerialID is a serial number as it stands in the ARN of a certificate.
func SerialID(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// ParseSerial reads a serial number in hexadecimal, with colons or without; it
// returns its SerialID.
func ParseSerial(text string) (string, error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(raw) == 0 {
		return "", fmt.Errorf("%q is no serial number in hexadecimal", text)
	}
	return SerialID(new(big.Int).SetBytes(raw)), nil
}
