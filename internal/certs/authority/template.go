package authority

import (
	"crypto/x509"
	"fmt"
	"strings"
)

// Template is what PCA's template of a name puts into a certificate, and what it
// lets the request and the caller put there.
type Template struct {
	Name string // EndEntityCertificate
	// CA certificates may sign others; pathLen is how many authorities may come
	// below, -1 for any number.
	CA       bool
	pathLen  int
	root     bool // it is its own issuer
	usage    x509.KeyUsage
	extUsage []x509.ExtKeyUsage
	// blank templates set nothing but the basic constraints.
	blank bool
	// critical marks the basic constraints of a certificate that is no authority's.
	critical bool
	api, csr bool // what is passed through beside subject and names
}

// templates are PCA's, without the words on what they pass through.
var templates = map[string]Template{
	"EndEntityCertificate":              {usage: endEntity, extUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
	"EndEntityClientAuthCertificate":    {usage: endEntity, extUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
	"EndEntityServerAuthCertificate":    {usage: endEntity, extUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
	"CodeSigningCertificate":            {usage: x509.KeyUsageDigitalSignature, extUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}},
	"OCSPSigningCertificate":            {usage: x509.KeyUsageDigitalSignature, extUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}},
	"RootCACertificate":                 {CA: true, pathLen: -1, root: true, usage: signer},
	"SubordinateCACertificate_PathLen0": {CA: true, pathLen: 0, usage: signer},
	"SubordinateCACertificate_PathLen1": {CA: true, pathLen: 1, usage: signer},
	"SubordinateCACertificate_PathLen2": {CA: true, pathLen: 2, usage: signer},
	"SubordinateCACertificate_PathLen3": {CA: true, pathLen: 3, usage: signer},

	"BlankEndEntityCertificate":                          {blank: true},
	"BlankEndEntityCertificate_CriticalBasicConstraints": {blank: true, critical: true},
	"BlankRootCACertificate":                             {CA: true, pathLen: -1, root: true, blank: true},
	"BlankRootCACertificate_PathLen0":                    {CA: true, pathLen: 0, root: true, blank: true},
	"BlankRootCACertificate_PathLen1":                    {CA: true, pathLen: 1, root: true, blank: true},
	"BlankRootCACertificate_PathLen2":                    {CA: true, pathLen: 2, root: true, blank: true},
	"BlankRootCACertificate_PathLen3":                    {CA: true, pathLen: 3, root: true, blank: true},
	"BlankSubordinateCACertificate_PathLen0":             {CA: true, pathLen: 0, blank: true},
	"BlankSubordinateCACertificate_PathLen1":             {CA: true, pathLen: 1, blank: true},
	"BlankSubordinateCACertificate_PathLen2":             {CA: true, pathLen: 2, blank: true},
	"BlankSubordinateCACertificate_PathLen3":             {CA: true, pathLen: 3, blank: true},
}

const (
	endEntity = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	signer    = x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign
)

// ARN is the template's, the only one that ParseTemplate reads it from: policies that
// deny a template by its ARN (acm-pca:TemplateArn) deny it in every spelling.
func (t Template) ARN(partition string) string { return inPartition(partition) + t.Name + "/V1" }

func inPartition(partition string) string { return "arn:" + partition + ":acm-pca:::template/" }

// ParseTemplate reads a template's ARN, arn:aws:acm-pca:::template/NAME/V1 in the
// partition aws; empty means EndEntityCertificate/V1.
func ParseTemplate(partition, arn string) (Template, error) {
	name := "EndEntityCertificate"
	if arn != "" {
		path, ok := strings.CutPrefix(arn, inPartition(partition))
		if !ok {
			return Template{}, fmt.Errorf("%q is no template: want %sNAME/V1", arn, inPartition(partition))
		}
		version := ""
		if name, version, _ = strings.Cut(path, "/"); version != "V1" {
			return Template{}, fmt.Errorf("%q is no template: its version is not V1", arn)
		}
	}
	base, through := name, ""
	if at := strings.LastIndex(name, "_"); at >= 0 && strings.HasSuffix(name, "Passthrough") {
		base, through = name[:at], name[at+1:]
	}
	t, ok := templates[base]
	switch through {
	case "":
		ok = ok && !t.blank
	case "APIPassthrough":
		t.api = true
	case "CSRPassthrough":
		t.csr = true
		ok = ok && !t.root
	case "APICSRPassthrough":
		t.api, t.csr = true, true
		ok = ok && !t.root
	default:
		ok = false
	}
	if !ok {
		return Template{}, fmt.Errorf("there is no template %s", name)
	}
	t.Name = name
	return t, nil
}
