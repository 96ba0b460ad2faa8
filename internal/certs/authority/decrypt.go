package authority

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // what others encrypted is read
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
)

var (
	oidHMACSHA1  = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}
	oidAES128CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}
	oidAES192CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}
	oidDES3CBC   = asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}
)

// mostIterations bounds what a passphrase may cost.
const mostIterations = 10_000_000

var errEncrypted = errors.New("decrypt key: its passphrase is another, or it is malformed")

// DecryptKey is the inverse of EncryptKey, also for what others encrypted by PBES2.
func DecryptKey(text, passphrase []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "ENCRYPTED PRIVATE KEY" {
		return nil, errors.New("decrypt key: it is no encrypted key in PEM")
	}
	var key encryptedKey
	var scheme pbes2Parameters
	if rest, err := asn1.Unmarshal(block.Bytes, &key); err != nil || len(rest) > 0 || !key.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, fmt.Errorf("decrypt key: it is not encrypted by PBES2: %w", ErrAlgorithm)
	}
	if _, err := asn1.Unmarshal(key.Algorithm.Parameters.FullBytes, &scheme); err != nil || !scheme.Derivation.Algorithm.Equal(oidPBKDF2) {
		return nil, fmt.Errorf("decrypt key: its passphrase is not used by PBKDF2: %w", ErrAlgorithm)
	}
	plain, err := scheme.decrypt(key.Data, passphrase)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, errEncrypted // the error might quote it
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("decrypt key: %w", ErrAlgorithm)
	}
	return signer, nil
}

func (p pbes2Parameters) decrypt(data, passphrase []byte) ([]byte, error) {
	var derivation struct {
		Salt       []byte
		Iterations int
		Length     int                      `asn1:"optional"`
		Hash       pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(p.Derivation.Parameters.FullBytes, &derivation); err != nil || derivation.Iterations < 1 || derivation.Iterations > mostIterations {
		return nil, errEncrypted
	}
	var sum func() hash.Hash
	switch id := derivation.Hash.Algorithm; {
	case len(id) == 0, id.Equal(oidHMACSHA1):
		sum = sha1.New
	case id.Equal(oidHMACSHA256):
		sum = sha256.New
	default:
		return nil, fmt.Errorf("decrypt key: hash %v: %w", id, ErrAlgorithm)
	}
	size, newCipher := 0, aes.NewCipher
	switch id := p.Encryption.Algorithm; {
	case id.Equal(oidAES128CBC):
		size = 16
	case id.Equal(oidAES192CBC):
		size = 24
	case id.Equal(oidAES256CBC):
		size = 32
	case id.Equal(oidDES3CBC):
		size, newCipher = 24, des.NewTripleDESCipher
	default:
		return nil, fmt.Errorf("decrypt key: cipher %v: %w", id, ErrAlgorithm)
	}
	var iv []byte
	if _, err := asn1.Unmarshal(p.Encryption.Parameters.FullBytes, &iv); err != nil {
		return nil, errEncrypted
	}
	derived, err := pbkdf2.Key(sum, string(passphrase), derivation.Salt, derivation.Iterations, size)
	if err != nil {
		return nil, errEncrypted
	}
	block, err := newCipher(derived)
	if err != nil || len(iv) != block.BlockSize() || len(data) == 0 || len(data)%block.BlockSize() != 0 {
		return nil, errEncrypted
	}
	plain := make([]byte, len(data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > block.BlockSize() {
		return nil, errEncrypted
	}
	return plain[:len(plain)-padding], nil
}
