package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// reloadEvery is how often the files of a certificate are looked at.
const reloadEvery = time.Second

// certificate is what a listener serves TLS with. It follows its files without
// a restart, and keeps what it has when they hold nothing that it can serve.
type certificate struct {
	listener          string // api or xds, as in the flags' names
	certFile, keyFile string
	clientCA          string // file, empty: clients are not asked for certificates
	log               *slog.Logger

	now atomic.Pointer[material]

	// Of follow alone: what the files held at the last look, and whether that
	// was said to be bad.
	seen [sha256.Size]byte
	said bool
}

// material is what the files hold.
type material struct {
	pair  tls.Certificate
	roots *x509.CertPool // nil without clientCA
}

// newCertificate reads the files. Errors name the flag.
func newCertificate(listener, certFile, keyFile, clientCA string, log *slog.Logger) (*certificate, error) {
	c := &certificate{listener: listener, certFile: certFile, keyFile: keyFile, clientCA: clientCA, log: log}
	files := c.read()
	m, err := c.parse(files)
	if err != nil {
		return nil, err
	}
	c.seen = files.sum()
	c.now.Store(m)
	return c, nil
}

// contents are the files as they were at one look.
type contents struct {
	cert, key, ca          []byte
	certErr, keyErr, caErr error
}

func (c *certificate) read() (f contents) {
	f.cert, f.certErr = os.ReadFile(c.certFile)
	f.key, f.keyErr = os.ReadFile(c.keyFile)
	if c.clientCA != "" {
		f.ca, f.caErr = os.ReadFile(c.clientCA)
	}
	return f
}

// sum tells two looks apart, also those at which a file could not be read.
func (f *contents) sum() [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q %v\n%q %v\n%q %v", f.cert, f.certErr, f.key, f.keyErr, f.ca, f.caErr))
}

func (c *certificate) parse(f contents) (*material, error) {
	if err := errors.Join(f.certErr, f.keyErr); err != nil {
		if f.certErr != nil {
			err = f.certErr // one line: the other often fails alike
		}
		return nil, fmt.Errorf("--%s-tls-cert: load certificate: %w", c.listener, err)
	}
	m := &material{}
	var err error
	if m.pair, err = tls.X509KeyPair(f.cert, f.key); err != nil {
		return nil, fmt.Errorf("--%s-tls-cert: load certificate: %w", c.listener, err)
	}
	if c.clientCA == "" {
		return m, nil
	}
	if f.caErr != nil {
		return nil, fmt.Errorf("--%s-client-ca: %w", c.listener, f.caErr)
	}
	m.roots = x509.NewCertPool()
	if !m.roots.AppendCertsFromPEM(f.ca) {
		return nil, fmt.Errorf("--%s-client-ca: %s holds no certificate in PEM", c.listener, c.clientCA)
	}
	return m, nil
}

// follow reads the files again when they change, until ctx ends.
func (c *certificate) follow(ctx context.Context) error {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look reads the files once. Certificate and key are two files and cannot be
// replaced at once: what is bad is said when it is the same at the next look.
func (c *certificate) look() {
	files := c.read()
	sum := files.sum()
	changed := sum != c.seen
	if !changed && c.said {
		return
	}
	c.seen, c.said = sum, false
	m, err := c.parse(files)
	switch {
	case err == nil:
		c.said = true // there is nothing to say of these
		if changed {
			c.now.Store(m)
			c.log.Info("certificate was read again", "listener", c.listener, "file", c.certFile, "ends", m.pair.Leaf.NotAfter)
		}
	case !changed:
		c.said = true
		c.log.Warn("certificate was not read again", "listener", c.listener, "file", c.certFile, "err", err)
	}
}

// notAfter is when the served certificate ends.
func (c *certificate) notAfter() time.Time { return c.now.Load().pair.Leaf.NotAfter }

// config serves the certificate, as it is when a client says hello.
// Certificates of clients are verified when given, never demanded.
func (c *certificate) config() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := c.now.Load()
		now := base.Clone()
		now.GetConfigForClient = nil
		now.Certificates = []tls.Certificate{m.pair}
		if m.roots != nil {
			now.ClientCAs, now.ClientAuth = m.roots, tls.VerifyClientCertIfGiven
		}
		return now, nil
	}
	return base
}

// rooted says whether the file's last certificate is one that signed itself: a
// root, or a certificate without a CA. Only then the file is enough to verify
// its first one for tools that take no certificate's word but a root's, as
// OpenSSL and so the AWS CLI.
func rooted(file string) bool {
	rest, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	var last *x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if last, err = x509.ParseCertificate(block.Bytes); err != nil {
			return false
		}
	}
	return last != nil && bytes.Equal(last.RawIssuer, last.RawSubject) &&
		last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil
}
