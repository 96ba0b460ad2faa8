package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	caLifetime     = 10 * 365 * 24 * time.Hour
	serverLifetime = 365 * 24 * time.Hour
)

// ownCertificate returns the files of a server certificate in dir, signed by a
// CA in dir (ca.pem is for agents). What is there is kept; the server's
// certificate is made anew when it lacks a name or has less than a third of its
// life left.
func ownCertificate(dir string, hosts []string, now time.Time) (certFile, keyFile string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("make certificates: %w", err)
	}
	certFile, keyFile = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	ca, err := loadOrMakeCA(dir, now)
	if err != nil {
		return "", "", fmt.Errorf("make certificates: %w", err)
	}
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && serves(pair, ca.Leaf, hosts, now) {
		return certFile, keyFile, nil
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "evermeshd"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore:   now.Add(-time.Hour), NotAfter: now.Add(serverLifetime),
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return certFile, keyFile, issue(template, &ca, certFile, keyFile)
}

func serves(pair tls.Certificate, ca *x509.Certificate, hosts []string, now time.Time) bool {
	if pair.Leaf == nil || pair.Leaf.NotAfter.Sub(now) < serverLifetime/3 || pair.Leaf.CheckSignatureFrom(ca) != nil {
		return false
	}
	for _, h := range hosts {
		if pair.Leaf.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

func loadOrMakeCA(dir string, now time.Time) (tls.Certificate, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return pair, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Evermesh control plane CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLifetime),
	}
	if err := issue(template, nil, certFile, keyFile); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(certFile, keyFile)
}

// issue signs the template with the CA, or with its own key when there is none,
// and writes certificate and key.
func issue(template *x509.Certificate, ca *tls.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	parent, signer := template, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyFile, "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(certFile, "CERTIFICATE", cert, 0o644)
}

// writePEM replaces the file by rename, so that a reader sees one or the other.
func writePEM(name, block string, der []byte, mode os.FileMode) error {
	temp := name + ".new"
	if err := os.WriteFile(temp, pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}), mode); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// ownHosts are the names and addresses by which agents may reach this host.
func ownHosts(address string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil && name != "" {
		hosts = append(hosts, name)
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
		return append(hosts, host)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return hosts
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	return hosts
}
