package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/evermesh/evermesh/internal/envoy"
)

// placeholder is a certificate for itself and its key, as PEM. It stands where a
// configuration names files of another machine, so that Envoy can check the rest
// of it here. It is the same in every run: its key is the number 1 and keeps
// nothing secret.
func placeholder() (certificate, key string, err error) {
	scalar := make([]byte, 32)
	scalar[31] = 1
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return "", "", fmt.Errorf("make a placeholder's key: %w", err)
	}
	epoch := time.Unix(0, 0).UTC()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "placeholder"}, NotBefore: epoch, NotAfter: epoch.AddDate(200, 0, 0),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"placeholder.invalid"},
	}
	// Without a source of chance the signature is the same every time.
	signed, err := x509.CreateCertificate(nil, template, template, &private.PublicKey, private)
	if err != nil {
		return "", "", fmt.Errorf("make a placeholder's certificate: %w", err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("encode a placeholder's key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})), nil
}

// withPlaceholders puts placeholders into the secrets of a bootstrap in JSON, in
// place of the files that they name. The names of the secrets still say which
// files are meant.
func withPlaceholders(static json.RawMessage) (json.RawMessage, error) {
	if !bytes.Contains(static, []byte(`"secrets"`)) {
		return static, nil
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(static, b); err != nil {
		return nil, fmt.Errorf("read a bootstrap: %w", err)
	}
	certificate, key, err := placeholder()
	if err != nil {
		return nil, err
	}
	put := func(d *corev3.DataSource, text string) {
		if d.GetFilename() != "" {
			d.Specifier = &corev3.DataSource_InlineString{InlineString: text}
		}
	}
	for _, s := range b.GetStaticResources().GetSecrets() {
		put(s.GetTlsCertificate().GetCertificateChain(), certificate)
		put(s.GetTlsCertificate().GetPrivateKey(), key)
		put(s.GetValidationContext().GetTrustedCa(), certificate)
	}
	return envoy.JSON(b)
}
