//go:build linux

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// issue makes an authority and a certificate of it for each of the names' lists: dir/ca.pem, and dir/NAME.pem and
// dir/NAME.key, readable by every user of the ground.
func issue(dir string, of map[string][]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("issue certificates: %w", err)
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("issue certificates: %w", err)
	}
	ca := template(1, "bench")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	if err := sign(filepath.Join(dir, "ca.pem"), ca, ca, key, key); err != nil {
		return err
	}
	serial := int64(1)
	for name, names := range of {
		serial++
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("issue certificates: %w", err)
		}
		c := template(serial, name)
		c.DNSNames, c.KeyUsage = names, x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		if err := sign(filepath.Join(dir, name+".pem"), c, ca, own, key); err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(own)
		if err != nil {
			return fmt.Errorf("issue certificates: %w", err)
		}
		if err := writePEM(filepath.Join(dir, name+".key"), "PRIVATE KEY", der); err != nil {
			return err
		}
	}
	return nil
}

// sign writes the certificate of a key, signed with its issuer's.
func sign(file string, of, by *x509.Certificate, key, with *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, of, by, key.Public(), with)
	if err != nil {
		return fmt.Errorf("issue certificates: %w", err)
	}
	return writePEM(file, "CERTIFICATE", der)
}

func writePEM(file, kind string, der []byte) error {
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
		return fmt.Errorf("issue certificates: %w", err)
	}
	return nil
}
