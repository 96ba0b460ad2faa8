package certs

import (
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
)

// checkRequest refuses what a request for a private certificate cannot say, and names
// that are none. AWS has the names' pattern in its model, with what Go's patterns lack.
func checkRequest(in *acmapi.RequestCertificateRequest) error {
	switch {
	case in.ManagedBy != "":
		return api.Errorf(acmapi.CodeInvalidParameter, "ManagedBy: there is no %s here that would manage the certificate: leave it out.", in.ManagedBy)
	case in.RootHierarchyType != "":
		return api.Errorf(acmapi.CodeValidation, "RootHierarchyType cannot be given together with CertificateAuthorityArn: leave it out.")
	case in.CertificateUsage != "":
		return api.Errorf(acmapi.CodeValidation, "CertificateUsage can be given with RootHierarchyType only: leave it out.")
	}
	if err := checkName("domainName", in.DomainName); err != nil {
		return err
	}
	for i, name := range in.SubjectAlternativeNames {
		if err := checkName(fmt.Sprintf("subjectAlternativeNames.%d.member", i+1), name); err != nil {
			return err
		}
	}
	return nil
}

// checkName refuses what is no name for a certificate of ACM. Addresses are none either,
// also where AWS's pattern would have one, as whoever verifies it looks for no such name.
func checkName(member, name string) error {
	labels := strings.Split(strings.TrimPrefix(name, "*."), ".")
	last := labels[len(labels)-1]
	ok := len(labels) > 1 && len(last) > 1 && strings.Trim(last, "0123456789") != ""
	for _, label := range labels {
		ok = ok && isLabel(label)
	}
	if ok {
		return nil
	}
	return api.Errorf(acmapi.CodeValidation, "Value '%s' at '%s' failed to satisfy constraint: Member must be a DNS name of two labels or more, such as orders.apps.local or *.apps.local. "+
		"Labels are of at most 63 letters, digits and hyphens, with no hyphen at either end, the last one of two characters or more. An address is no name.", name, member)
}

func isLabel(label string) bool {
	for i := range len(label) {
		switch c := label[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(label)-1:
		default:
			return false
		}
	}
	return label != "" && len(label) <= 63
}
