package secrets

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// certificate is a certificate with its key. Files Envoy reads by itself, and again
// whenever something is moved into the directory of one of them: that is how
// Kubernetes, cert-manager and whoever writes a file beside and renames it replace
// a certificate. Envoy watches these directories, both of them, as long as it is
// given no watched_directory.
func certificate(chain, key *corev3.DataSource, form int) *tlsv3.Secret {
	c := &tlsv3.TlsCertificate{CertificateChain: chain, PrivateKey: key}
	if form%2 == 1 {
		c.Password = nothing()
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: c}}
}

// trust is certificate for authorities.
func trust(authorities *corev3.DataSource, form int) *tlsv3.Secret {
	c := &tlsv3.CertificateValidationContext{TrustedCa: authorities}
	if form%2 == 1 {
		c.Crl = nothing()
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: c}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func inline(content []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: content}}
}

// nothing means as much to Envoy as no source at all, but is other content: with
// it Envoy reads what it had last, which it may have refused. Without a difference
// it accepts the secret unread.
func nothing() *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: ""}}
}
