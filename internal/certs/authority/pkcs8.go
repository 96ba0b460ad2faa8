package authority

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
)

// The names of PKCS#5's parts.
var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int
	Hash       pkix.AlgorithmIdentifier
}

type pbes2Parameters struct {
	Derivation, Encryption pkix.AlgorithmIdentifier
}

type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// iterations is OpenSSL's default.
const iterations = 2048

// EncryptKey is a private key as PEM, PKCS#8 encrypted under a passphrase (PBES2,
// PBKDF2 with HMAC-SHA256, AES-256-CBC), as ExportCertificate answers it.
func EncryptKey(key crypto.Signer, passphrase []byte) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	for _, b := range [][]byte{salt, iv} {
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("encrypt key: %w", err)
		}
	}
	derived, err := pbkdf2.Key(sha256.New, string(passphrase), salt, iterations, 32)
	if err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("encrypt key: %w", err)
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	plain = append(plain, bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)

	encoder := asn1Encoder{}
	derivation := encoder.raw(pbkdf2Parameters{salt, iterations, pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue}})
	parameters := encoder.raw(pbes2Parameters{
		Derivation: pkix.AlgorithmIdentifier{Algorithm: oidPBKDF2, Parameters: derivation},
		Encryption: pkix.AlgorithmIdentifier{Algorithm: oidAES256CBC, Parameters: encoder.raw(iv)},
	})
	der := encoder.raw(encryptedKey{pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: parameters}, plain})
	if encoder.err != nil {
		return nil, fmt.Errorf("encrypt key: %w", encoder.err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der.FullBytes}), nil
}

// asn1Encoder keeps the first error of several encodings.
type asn1Encoder struct{ err error }

func (e *asn1Encoder) raw(v any) asn1.RawValue {
	der, err := asn1.Marshal(v)
	if err != nil && e.err == nil {
		e.err = err
	}
	return asn1.RawValue{FullBytes: der}
}
