package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // it names keys, as RFC 5280 has it, and protects nothing
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// ErrAlgorithm is the error of an algorithm that this program has not.
var ErrAlgorithm = errors.New("algorithm is not offered")

// NewKey draws a private key: RSA_2048, RSA_3072, RSA_4096, EC_prime256v1,
// EC_secp384r1 or EC_secp521r1, else ErrAlgorithm.
func NewKey(algorithm pcaapi.KeyAlgorithm) (crypto.Signer, error) {
	switch algorithm {
	case pcaapi.KeyAlgorithmRsa2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case pcaapi.KeyAlgorithmRsa3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case pcaapi.KeyAlgorithmRsa4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case pcaapi.KeyAlgorithmEcPrime256v1:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case pcaapi.KeyAlgorithmEcSecp384r1:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case pcaapi.KeyAlgorithmEcSecp521r1:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	}
	return nil, fmt.Errorf("key algorithm %s: %w", algorithm, ErrAlgorithm)
}

// KeyAlgorithm is the algorithm of a public key in ACM's words, or "" for one that
// has none.
func KeyAlgorithm(public crypto.PublicKey) pcaapi.KeyAlgorithm {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return pcaapi.KeyAlgorithm(fmt.Sprintf("RSA_%d", k.N.BitLen()))
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return pcaapi.KeyAlgorithmEcPrime256v1
		case elliptic.P384():
			return pcaapi.KeyAlgorithmEcSecp384r1
		case elliptic.P521():
			return pcaapi.KeyAlgorithmEcSecp521r1
		}
	}
	return ""
}

// signatures are the algorithms that authorities sign by.
var signatures = map[pcaapi.SigningAlgorithm]x509.SignatureAlgorithm{
	pcaapi.SigningAlgorithmSha256withrsa:    x509.SHA256WithRSA,
	pcaapi.SigningAlgorithmSha384withrsa:    x509.SHA384WithRSA,
	pcaapi.SigningAlgorithmSha512withrsa:    x509.SHA512WithRSA,
	pcaapi.SigningAlgorithmSha256withrsaPss: x509.SHA256WithRSAPSS,
	pcaapi.SigningAlgorithmSha384withrsaPss: x509.SHA384WithRSAPSS,
	pcaapi.SigningAlgorithmSha512withrsaPss: x509.SHA512WithRSAPSS,
	pcaapi.SigningAlgorithmSha256withecdsa:  x509.ECDSAWithSHA256,
	pcaapi.SigningAlgorithmSha384withecdsa:  x509.ECDSAWithSHA384,
	pcaapi.SigningAlgorithmSha512withecdsa:  x509.ECDSAWithSHA512,
}

// Fits says whether keys of that algorithm can sign so: nil, or an error that says
// why not.
func Fits(key pcaapi.KeyAlgorithm, signing pcaapi.SigningAlgorithm) error {
	s, ok := signatures[signing]
	if !ok {
		return fmt.Errorf("signing algorithm %s: %w", signing, ErrAlgorithm)
	}
	var rsaKey bool
	switch key {
	case pcaapi.KeyAlgorithmRsa2048, pcaapi.KeyAlgorithmRsa3072, pcaapi.KeyAlgorithmRsa4096:
		rsaKey = true
	case pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.KeyAlgorithmEcSecp384r1, pcaapi.KeyAlgorithmEcSecp521r1:
	default:
		return fmt.Errorf("key algorithm %s: %w", key, ErrAlgorithm)
	}
	ecdsaSignature := s == x509.ECDSAWithSHA256 || s == x509.ECDSAWithSHA384 || s == x509.ECDSAWithSHA512
	if rsaKey == ecdsaSignature {
		return fmt.Errorf("a key of %s cannot sign by %s", key, signing)
	}
	return nil
}

// MarshalKey is a private key as PEM, PKCS#8 and not encrypted.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads a private key in PEM: PKCS#8, PKCS#1 or SEC 1, not encrypted.
func ParseKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes them before the key
		_, text, _ = cutPEM(text)
		block, _ = pem.Decode(text)
	}
	if block == nil {
		return nil, errors.New("read key: it is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errors.New("read key: it is encrypted")
		}
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("read key: it is %q", block.Type)
	}
	if err != nil {
		return nil, errors.New("read key: it is malformed") // the error might quote it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key: %w", ErrAlgorithm)
	}
	return signer, nil
}

// cutPEM is the first block of a text, and what follows it.
func cutPEM(text []byte) (*pem.Block, []byte, bool) {
	block, rest := pem.Decode(text)
	return block, rest, block != nil
}

// keyID is what certificates call a public key: the SHA-1 of its bits (RFC 5280,
// 4.2.1.2).
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha1.Sum(info.Bits.Bytes) //nolint:gosec // as above
	return sum[:], nil
}

// SameKey says whether two public keys are one.
func SameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
