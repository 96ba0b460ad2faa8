package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// The headers beside a token or a certificate, as the control plane reads them.
const (
	roleHeader    = "x-evermesh-role-arn"
	accountHeader = "x-evermesh-account"
)

// maxToken bounds a token, in bytes.
const maxToken = 20000

// headers are those of a stream or request to e. A token goes to nobody in plaintext but on this machine: who reads it could use
// it.
func headers(p settings.Proof, e settings.Endpoint) (http.Header, error) {
	md := http.Header{}
	if p.Role != "" {
		md.Set(roleHeader, p.Role)
	}
	if p.TokenFile == "" {
		return md, nil
	}
	if !e.TLS && !e.Here() {
		return nil, errors.New("prove who this is: a token is sent over TLS only: APPMESH_XDS_ENDPOINT must be https://…")
	}
	text, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("read EVERMESH_TOKEN_FILE: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(token) > maxToken || strings.ContainsAny(token, " \t\r\n") {
		return nil, fmt.Errorf("read EVERMESH_TOKEN_FILE: %s holds no token", p.TokenFile)
	}
	md.Set("authorization", "Bearer "+token)
	if p.Account != "" {
		md.Set(accountHeader, p.Account)
	}
	return md, nil
}

// certificates are the client's for one connection; none without files.
func certificates(p settings.Proof) ([]tls.Certificate, error) {
	if p.CertFile == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read APPMESH_XDS_CLIENT_CERT_FILE: %w", err)
	}
	return []tls.Certificate{pair}, nil
}
