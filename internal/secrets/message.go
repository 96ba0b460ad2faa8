package secrets

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/evermesh/evermesh/internal/envoy"
)

// fileCertificate has Envoy read the files, and again whenever something is moved
// into the directory of one of them: that is how Kubernetes, cert-manager and
// whoever writes a file beside and renames it replace a certificate. Envoy
// watches these directories by itself, both of them, as long as it is given no
// watched_directory.
func fileCertificate(n envoy.SecretName, again int) *tlsv3.Secret {
	c := &tlsv3.TlsCertificate{CertificateChain: file(n.Path), PrivateKey: file(n.Key)}
	if again%2 == 1 {
		c.Password = nothing()
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: c}}
}

// fileTrust is fileCertificate for authorities.
func fileTrust(n envoy.SecretName, again int) *tlsv3.Secret {
	c := &tlsv3.CertificateValidationContext{TrustedCa: file(n.Path)}
	if again%2 == 1 {
		c.Crl = nothing()
	}
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: c}}
}

func issuedCertificate(c Certificate) *tlsv3.Secret {
	return &tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(c.Chain), PrivateKey: inline([]byte(c.Key)),
	}}}
}

func trust(authorities []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(authorities)}}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func inline(content []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: content}}
}

// nothing means as much to Envoy as no source at all, but is other content: with
// it Envoy reads files that it could not read before. Without a difference it
// accepts the secret unread.
func nothing() *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: ""}}
}
