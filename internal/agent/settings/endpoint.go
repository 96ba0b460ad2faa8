package settings

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Endpoint is one place where the control plane serves xDS.
type Endpoint struct {
	Network   string // tcp or unix
	Address   string // host:port, or the socket's path
	TLS       bool
	Authority string // of the HTTP/2 requests, which is what is signed: without the port that TLS or plaintext implies
}

// String is the endpoint as it may be written in APPMESH_XDS_ENDPOINT.
func (e Endpoint) String() string {
	switch {
	case e.Network == "unix":
		return "xds+unix://" + e.Address
	case e.TLS:
		return "https://" + e.Address
	}
	return "http://" + e.Address
}

const serviceConnectScheme = "unix://"

// MaxSocketPath is how many bytes the path of a unix socket may have, for the kernel.
const MaxSocketPath = 107

// parseEndpoints reads APPMESH_XDS_ENDPOINT.
func parseEndpoints(list string) ([]Endpoint, error) {
	var out []Endpoint
	for item := range strings.SplitSeq(list, ",") { // before any of it is told: what is before an @ may be a password, and have commas
		if item = strings.TrimSpace(item); strings.Contains(item, "@") && !strings.HasPrefix(item, "xds+unix://") {
			return nil, errors.New("an @ in it: the control plane is asked for by no user and no password; want host:port, https://host:port, http://host:port or xds+unix://path")
		}
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		e, err := parseEndpoint(item)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("no endpoint in it")
	}
	return out, nil
}

func parseEndpoint(s string) (Endpoint, error) {
	scheme, rest, hasScheme := strings.Cut(s, "://")
	if !hasScheme {
		scheme, rest = "https", s
	}
	e := Endpoint{Network: "tcp", TLS: scheme == "https"}
	implied := map[string]string{"http": "80", "https": "443"}[scheme]
	switch scheme {
	case "http", "https":
		rest = strings.TrimSuffix(rest, "/")
	case "xds+unix":
		if rest == "" || len(rest) > MaxSocketPath {
			return Endpoint{}, fmt.Errorf("%q: want xds+unix:// and a path of 1 to %d bytes", s, MaxSocketPath)
		}
		return Endpoint{Network: "unix", Address: rest, Authority: "localhost"}, nil
	case "unix":
		return Endpoint{}, fmt.Errorf("%q: unix:// is for Service Connect and stands alone; a control plane's socket is xds+unix://path", s)
	default:
		return Endpoint{}, fmt.Errorf("%q: want host:port, https://host:port, http://host:port or xds+unix://path", s)
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil && hasScheme { // without a port the scheme's
		host, port, err = strings.Trim(rest, "[]"), implied, nil
	}
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@?# ") {
		return Endpoint{}, fmt.Errorf("%q: want host:port, https://host:port, http://host:port or xds+unix://path", s)
	}
	e.Address = net.JoinHostPort(host, port)
	e.Authority = e.Address
	if port == implied {
		e.Authority = strings.TrimSuffix(e.Address, ":"+port)
	}
	return e, nil
}

// awsEndpoint is where App Mesh's own service was.
func awsEndpoint(region string, preview, dualStack, fips bool) string {
	name, domain := "appmesh-envoy-management", "amazonaws.com"
	if preview {
		name = "appmesh-preview-envoy-management"
	}
	if fips {
		name += "-fips"
	}
	if dualStack {
		domain = "api.aws"
	}
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
		if dualStack {
			domain = "api.amazonwebservices.com.cn"
		}
	}
	return fmt.Sprintf("%s.%s.%s:443", name, region, domain)
}
