package authority

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// subjectOIDs are the attributes of a subject, in the order in which PCA writes
// them.
func subjectValues(s *pcaapi.ASN1Subject) []pkix.AttributeTypeAndValue {
	var out []pkix.AttributeTypeAndValue
	add := func(value string, oid ...int) {
		if value != "" {
			out = append(out, pkix.AttributeTypeAndValue{Type: oid, Value: value})
		}
	}
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	add(s.Country, 2, 5, 4, 6)
	add(text(s.Organization), 2, 5, 4, 10)
	add(text(s.OrganizationalUnit), 2, 5, 4, 11)
	add(text(s.DistinguishedNameQualifier), 2, 5, 4, 46)
	add(text(s.State), 2, 5, 4, 8)
	add(text(s.CommonName), 2, 5, 4, 3)
	add(text(s.SerialNumber), 2, 5, 4, 5)
	add(text(s.Locality), 2, 5, 4, 7)
	add(text(s.Title), 2, 5, 4, 12)
	add(text(s.Surname), 2, 5, 4, 4)
	add(text(s.GivenName), 2, 5, 4, 42)
	add(text(s.Initials), 2, 5, 4, 43)
	add(text(s.Pseudonym), 2, 5, 4, 65)
	add(text(s.GenerationQualifier), 2, 5, 4, 44)
	return out
}

// Subject is a subject as DER. Custom attributes stand alone, as in AWS: an error
// says so.
func Subject(s pcaapi.ASN1Subject) ([]byte, error) {
	values := subjectValues(&s)
	if len(values) > 0 && len(s.CustomAttributes) > 0 {
		return nil, errors.New("a subject has either custom attributes or the named ones")
	}
	for _, c := range s.CustomAttributes {
		oid, err := parseOID(c.ObjectIdentifier)
		if err != nil {
			return nil, err
		}
		values = append(values, pkix.AttributeTypeAndValue{Type: oid, Value: c.Value})
	}
	rdns := make(pkix.RDNSequence, 0, len(values))
	for _, v := range values {
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{v})
	}
	der, err := asn1.Marshal(rdns)
	if err != nil {
		return nil, fmt.Errorf("encode subject: %w", err)
	}
	return der, nil
}

// CommonName is a subject of a common name alone.
func CommonName(name string) pcaapi.ASN1Subject { return pcaapi.ASN1Subject{CommonName: &name} }

func parseOID(text string) (asn1.ObjectIdentifier, error) {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is no object identifier", text)
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, fmt.Errorf("%q is no object identifier", text)
	}
	return oid, nil
}

// generalNames are alternative names as DER.
func generalNames(names []pcaapi.GeneralName) ([]byte, error) {
	var all []asn1.RawValue
	for i := range names {
		v, err := generalName(&names[i])
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	der, err := asn1.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode alternative names: %w", err)
	}
	return der, nil
}

// The tags of GeneralName.
const (
	tagEmail     = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
	tagOID       = 8
)

func generalName(n *pcaapi.GeneralName) (asn1.RawValue, error) {
	plain := func(tag int, text string) (asn1.RawValue, error) {
		for _, r := range text {
			if r > 127 {
				return asn1.RawValue{}, fmt.Errorf("alternative name %q is not ASCII", text)
			}
		}
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(text)}, nil
	}
	switch {
	case n.DNSName != nil:
		return plain(tagDNS, *n.DNSName)
	case n.Rfc822Name != nil:
		return plain(tagEmail, *n.Rfc822Name)
	case n.UniformResourceIdentifier != nil:
		return plain(tagURI, *n.UniformResourceIdentifier)
	case n.IPAddress != nil:
		ip, err := netip.ParseAddr(*n.IPAddress)
		if err != nil {
			return asn1.RawValue{}, fmt.Errorf("%q is no IP address", *n.IPAddress)
		}
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIP, Bytes: ip.AsSlice()}, nil
	case n.DirectoryName != nil:
		der, err := Subject(*n.DirectoryName)
		if err != nil {
			return asn1.RawValue{}, err
		}
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDirectory, IsCompound: true, Bytes: der}, nil
	case n.RegisteredID != nil:
		oid, err := parseOID(*n.RegisteredID)
		if err != nil {
			return asn1.RawValue{}, err
		}
		der, err := asn1.Marshal(oid)
		if err != nil {
			return asn1.RawValue{}, fmt.Errorf("encode alternative name: %w", err)
		}
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagOID, Bytes: der[2:]}, nil
	}
	return asn1.RawValue{}, errors.New("an alternative name of a type that is not offered: want DnsName, IpAddress, UniformResourceIdentifier, Rfc822Name, DirectoryName or RegisteredId")
}
