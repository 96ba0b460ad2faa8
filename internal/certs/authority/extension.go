package authority

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// extendedUsages are the object identifiers of extended key usages.
var extendedUsages = map[pcaapi.ExtendedKeyUsageType]string{
	pcaapi.ExtendedKeyUsageTypeServerAuth:              "1.3.6.1.5.5.7.3.1",
	pcaapi.ExtendedKeyUsageTypeClientAuth:              "1.3.6.1.5.5.7.3.2",
	pcaapi.ExtendedKeyUsageTypeCodeSigning:             "1.3.6.1.5.5.7.3.3",
	pcaapi.ExtendedKeyUsageTypeEmailProtection:         "1.3.6.1.5.5.7.3.4",
	pcaapi.ExtendedKeyUsageTypeTimeStamping:            "1.3.6.1.5.5.7.3.8",
	pcaapi.ExtendedKeyUsageTypeOcspSigning:             "1.3.6.1.5.5.7.3.9",
	pcaapi.ExtendedKeyUsageTypeSmartCardLogin:          "1.3.6.1.4.1.311.20.2.2",
	pcaapi.ExtendedKeyUsageTypeDocumentSigning:         "1.3.6.1.4.1.311.10.3.12",
	pcaapi.ExtendedKeyUsageTypeCertificateTransparency: "1.3.6.1.4.1.11129.2.4.4",
}

// apiExtensions are the extensions that a call asks for.
func apiExtensions(x *pcaapi.Extensions) ([]pkix.Extension, error) {
	var out []pkix.Extension
	if len(x.SubjectAlternativeNames) > 0 {
		der, err := generalNames(x.SubjectAlternativeNames)
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: oidSAN, Value: der})
	}
	if x.KeyUsage != nil {
		der, err := keyUsage(x.KeyUsage)
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: oidKeyUsage, Critical: true, Value: der})
	}
	if len(x.ExtendedKeyUsage) > 0 {
		var all []asn1.ObjectIdentifier
		for _, u := range x.ExtendedKeyUsage {
			text := extendedUsages[u.ExtendedKeyUsageType]
			if u.ExtendedKeyUsageObjectIdentifier != nil {
				text = *u.ExtendedKeyUsageObjectIdentifier
			}
			oid, err := parseOID(text)
			if err != nil {
				return nil, err
			}
			all = append(all, oid)
		}
		der, err := asn1.Marshal(all)
		if err != nil {
			return nil, fmt.Errorf("encode extended key usage: %w", err)
		}
		out = append(out, pkix.Extension{Id: oidExtKeyUsage, Value: der})
	}
	if len(x.CertificatePolicies) > 0 {
		der, err := policies(x.CertificatePolicies)
		if err != nil {
			return nil, err
		}
		out = append(out, pkix.Extension{Id: oidPolicies, Value: der})
	}
	for _, c := range x.CustomExtensions {
		oid, err := parseOID(c.ObjectIdentifier)
		if err != nil {
			return nil, err
		}
		value, err := base64.StdEncoding.DecodeString(c.Value)
		if err != nil {
			return nil, fmt.Errorf("the value of extension %s is not in base64", c.ObjectIdentifier)
		}
		out = append(out, pkix.Extension{Id: oid, Critical: c.Critical != nil && *c.Critical, Value: value})
	}
	return out, nil
}

type policyQualifier struct {
	ID  asn1.ObjectIdentifier
	CPS string `asn1:"ia5"`
}

type policyInformation struct {
	ID         asn1.ObjectIdentifier
	Qualifiers []policyQualifier `asn1:"optional,omitempty"`
}

func policies(list []pcaapi.PolicyInformation) ([]byte, error) {
	var all []policyInformation
	for _, p := range list {
		oid, err := parseOID(p.CertPolicyID)
		if err != nil {
			return nil, err
		}
		info := policyInformation{ID: oid}
		for _, q := range p.PolicyQualifiers {
			info.Qualifiers = append(info.Qualifiers, policyQualifier{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 2, 1}, q.Qualifier.CpsURI})
		}
		all = append(all, info)
	}
	der, err := asn1.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode certificate policies: %w", err)
	}
	return der, nil
}
