package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
)

// UnreachableError says that an endpoint gave no answer of the API, why, and what
// to do, in one line.
type UnreachableError struct {
	Endpoint string
	Err      error
}

// Unwrap returns what the network said.
func (e *UnreachableError) Unwrap() error { return e.Err }

func (e *UnreachableError) Error() string {
	var (
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		certificate x509.CertificateInvalidError
		record      tls.RecordHeaderError
		dns         *net.DNSError
		timeout     net.Error
	)
	switch err := e.Err; {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing answers at %s: start the control plane with 'evermeshd serve', or correct AWS_ENDPOINT_URL", e.Endpoint)
	case errors.As(err, &authority):
		return fmt.Sprintf("the certificate of %s is signed by an authority that is not trusted here: name its CA in AWS_CA_BUNDLE; eval \"$(evermesh env)\" does on the control plane's host, or says why not", e.Endpoint)
	case errors.As(err, &hostname):
		return fmt.Sprintf("the certificate of %s is for another name (%v): call it by a name that is in the certificate, or give it one with this name", e.Endpoint, hostname)
	case errors.As(err, &certificate):
		return fmt.Sprintf("the certificate of %s is not valid (%v): renew it, or correct this host's clock", e.Endpoint, certificate)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return fmt.Sprintf("%s does not speak TLS: write http:// in AWS_ENDPOINT_URL", e.Endpoint)
	case errors.As(err, &dns):
		return fmt.Sprintf("the host of %s is not found (%s): correct AWS_ENDPOINT_URL, or the name server's answer", e.Endpoint, dns.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s does not answer in time: see whether the control plane is well (/readyz on its admin address), and what is between", e.Endpoint)
	case errors.Is(err, errSpeaksTLS):
		return fmt.Sprintf("%s speaks TLS: write https:// in AWS_ENDPOINT_URL, and name its CA in AWS_CA_BUNDLE", e.Endpoint)
	}
	return fmt.Sprintf("the connection to %s failed: %v", e.Endpoint, e.Err)
}

// errSpeaksTLS stands for the answer of a TLS server to plain HTTP.
var errSpeaksTLS = errors.New("it speaks TLS")

// unreachable is the error of a request that got no answer. The caller's own end
// is none.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &UnreachableError{c.Endpoint, err}
}
