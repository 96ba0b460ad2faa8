package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

func (r *Registry) describeCertificate(ctx context.Context, c *service.Call, in *acmapi.DescribeCertificateRequest) (*acmapi.DescribeCertificateResponse, error) {
	h, err := r.readCertificate(ctx, c, in.CertificateARN, nil)
	if err != nil {
		return nil, err
	}
	all, err := r.using(ctx)
	if err != nil {
		return nil, err
	}
	by := all[h.arn]
	if by == nil {
		by = []string{} // which is told, too
	}
	leaf, err := h.leaf()
	if err != nil {
		return nil, err
	}
	out := &acmapi.CertificateDetail{
		CertificateARN: h.arn, DomainName: h.Domain, SubjectAlternativeNames: h.Names, Type: h.Type, Status: h.state(leaf, r.now()), FailureReason: h.Failure,
		KeyAlgorithm: h.Algorithm, CertificateAuthorityARN: h.Authority, InUseBy: by, RenewalEligibility: h.eligibility(),
		CreatedAt: at(h.Created), ImportedAt: at(h.Imported), IssuedAt: at(h.Issued), RevokedAt: at(h.Revoked), RevocationReason: h.Reason,
		Options: &acmapi.CertificateOptions{CertificateTransparencyLoggingPreference: acmapi.CertificateTransparencyLoggingPreferenceDisabled, Export: h.export()},
	}
	if h.Type == acmapi.CertificateTypeImported {
		out.CreatedAt = nil
	}
	if h.Renewal != nil {
		out.RenewalSummary = &acmapi.RenewalSummary{
			RenewalStatus: h.Renewal.Status, RenewalStatusReason: h.Renewal.Reason, UpdatedAt: api.Timestamp{Time: h.Renewal.Updated},
			DomainValidationOptions: validated(h),
		}
	}
	if h.Type == acmapi.CertificateTypePrivate {
		out.DomainValidationOptions = validated(h)
	}
	if leaf == nil {
		return &acmapi.DescribeCertificateResponse{Certificate: out}, nil
	}
	subject, issuer, serial, signature := distinguished(leaf.Subject.String()), issuerName(leaf), authority.SerialText(leaf.SerialNumber), signatureName(leaf)
	out.Subject, out.Issuer, out.Serial, out.SignatureAlgorithm = &subject, &issuer, &serial, &signature
	out.NotBefore, out.NotAfter = at(leaf.NotBefore), at(leaf.NotAfter)
	for _, u := range usages(leaf) {
		out.KeyUsages = append(out.KeyUsages, acmapi.KeyUsage{Name: u})
	}
	for _, u := range extended(leaf) {
		oid := u.oid
		out.ExtendedKeyUsages = append(out.ExtendedKeyUsages, acmapi.ExtendedKeyUsage{Name: u.name, OID: &oid})
	}
	return &acmapi.DescribeCertificateResponse{Certificate: out}, nil
}

// leaf is the certificate itself; nil when it was never issued.
func (b *certificateBody) leaf() (*x509.Certificate, error) {
	if b.Certificate == "" {
		return nil, nil
	}
	leaf, err := authority.ParseCertificate([]byte(b.Certificate))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return leaf, nil
}

// state is the status as it is told: what has ended is EXPIRED.
func (b *certificateBody) state(leaf *x509.Certificate, now time.Time) acmapi.CertificateStatus {
	if b.Status == acmapi.CertificateStatusIssued && leaf != nil && now.After(leaf.NotAfter) {
		return acmapi.CertificateStatusExpired
	}
	return b.Status
}

func (b *certificateBody) eligibility() acmapi.RenewalEligibility {
	if b.Type == acmapi.CertificateTypePrivate && b.Status == acmapi.CertificateStatusIssued {
		return acmapi.RenewalEligibilityEligible
	}
	return acmapi.RenewalEligibilityIneligible
}

// export says whether who asks for the certificate with its key gets it: a private one is
// exported unless its request said otherwise, an imported one never.
func (b *certificateBody) export() acmapi.CertificateExport {
	if b.Type != acmapi.CertificateTypePrivate || b.Export == acmapi.CertificateExportDisabled {
		return acmapi.CertificateExportDisabled
	}
	return acmapi.CertificateExportEnabled
}

func at(t time.Time) *api.Timestamp {
	if t.IsZero() {
		return nil
	}
	return &api.Timestamp{Time: t}
}

// validated is what is told of the validation of domains, which a private
// certificate has not.
func validated(h *held) []acmapi.DomainValidation {
	out := []acmapi.DomainValidation{}
	for _, name := range h.Names {
		out = append(out, acmapi.DomainValidation{DomainName: name, ValidationStatus: acmapi.DomainStatusSuccess})
	}
	return out
}

func distinguished(name string) string { return strings.ReplaceAll(name, ",", ", ") }

func issuerName(leaf *x509.Certificate) string {
	if len(leaf.Issuer.Organization) > 0 {
		return leaf.Issuer.Organization[0]
	}
	if leaf.Issuer.CommonName != "" {
		return leaf.Issuer.CommonName
	}
	return distinguished(leaf.Issuer.String())
}

func signatureName(leaf *x509.Certificate) string {
	switch leaf.SignatureAlgorithm {
	case x509.SHA256WithRSA:
		return "SHA256WITHRSA"
	case x509.SHA384WithRSA:
		return "SHA384WITHRSA"
	case x509.SHA512WithRSA:
		return "SHA512WITHRSA"
	case x509.ECDSAWithSHA256:
		return "SHA256WITHECDSA"
	case x509.ECDSAWithSHA384:
		return "SHA384WITHECDSA"
	case x509.ECDSAWithSHA512:
		return "SHA512WITHECDSA"
	}
	return leaf.SignatureAlgorithm.String()
}

// usageNames are the bits of a key's usage, from the first on.
var usageNames = []acmapi.KeyUsageName{
	acmapi.KeyUsageNameDigitalSignature, acmapi.KeyUsageNameNonRepudiation, acmapi.KeyUsageNameKeyEncipherment, acmapi.KeyUsageNameDataEncipherment,
	acmapi.KeyUsageNameKeyAgreement, acmapi.KeyUsageNameCertificateSigning, acmapi.KeyUsageNameCrlSigning, acmapi.KeyUsageNameEncipherOnly, acmapi.KeyUsageNameDecipherOnly,
}

func usages(leaf *x509.Certificate) []acmapi.KeyUsageName {
	var out []acmapi.KeyUsageName
	for i, name := range usageNames {
		if leaf.KeyUsage&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

type extendedUsage struct {
	name acmapi.ExtendedKeyUsageName
	oid  string
}

var extendedNames = map[x509.ExtKeyUsage]extendedUsage{
	x509.ExtKeyUsageAny:             {acmapi.ExtendedKeyUsageNameAny, "2.5.29.37.0"},
	x509.ExtKeyUsageServerAuth:      {acmapi.ExtendedKeyUsageNameTLSWebServerAuthentication, "1.3.6.1.5.5.7.3.1"},
	x509.ExtKeyUsageClientAuth:      {acmapi.ExtendedKeyUsageNameTLSWebClientAuthentication, "1.3.6.1.5.5.7.3.2"},
	x509.ExtKeyUsageCodeSigning:     {acmapi.ExtendedKeyUsageNameCodeSigning, "1.3.6.1.5.5.7.3.3"},
	x509.ExtKeyUsageEmailProtection: {acmapi.ExtendedKeyUsageNameEmailProtection, "1.3.6.1.5.5.7.3.4"},
	x509.ExtKeyUsageTimeStamping:    {acmapi.ExtendedKeyUsageNameTimeStamping, "1.3.6.1.5.5.7.3.8"},
	x509.ExtKeyUsageOCSPSigning:     {acmapi.ExtendedKeyUsageNameOcspSigning, "1.3.6.1.5.5.7.3.9"},
}

func extended(leaf *x509.Certificate) []extendedUsage {
	var out []extendedUsage
	for _, u := range leaf.ExtKeyUsage {
		if name, ok := extendedNames[u]; ok {
			out = append(out, name)
		}
	}
	for _, oid := range leaf.UnknownExtKeyUsage {
		out = append(out, extendedUsage{acmapi.ExtendedKeyUsageNameCustom, oid.String()})
	}
	return out
}

// listedNames is how many alternative names a list tells of a certificate.
const listedNames = 100

func (r *Registry) listCertificates(ctx context.Context, c *service.Call, in *acmapi.ListCertificatesRequest) (*acmapi.ListCertificatesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if (in.SortBy == "") != (in.SortOrder == "") {
		return nil, api.Errorf(acmapi.CodeInvalidArgs, "SortBy and SortOrder belong together: give both or none.")
	}
	records, _, err := r.config.Store.Records(ctx, certsTail+c.Principal.Account+"/certificate/")
	if err != nil {
		return nil, err
	}
	type item struct {
		key     string
		summary acmapi.CertificateSummary
	}
	var items []item
	for _, record := range records {
		h, leaf, err := r.heldIn(record)
		if err != nil {
			return nil, err
		}
		if s := r.summary(h, leaf); r.listed(in, h, leaf, s.Status) {
			// Such keys sort by when it was made, and tell two of one moment apart.
			items = append(items, item{fmt.Sprintf("%020d %s", h.Created.UnixNano(), h.id), s})
		}
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	if in.SortOrder == acmapi.SortOrderDescending {
		slices.Reverse(items)
		for i := range items {
			items[i].key = mirrored(items[i].key)
		}
	}
	out := &acmapi.ListCertificatesResponse{CertificateSummaryList: []acmapi.CertificateSummary{}}
	items, next, ok := page(items, func(x item) string { return x.key }, in.NextToken, in.MaxItems, 1000)
	if !ok {
		return nil, api.Errorf(acmapi.CodeValidation, "The nextToken is not one that this list gave out.")
	}
	out.NextToken = next
	for i := range items {
		out.CertificateSummaryList = append(out.CertificateSummaryList, items[i].summary)
	}
	all, err := r.using(ctx)
	if err != nil {
		return nil, err
	}
	for i := range out.CertificateSummaryList {
		s := &out.CertificateSummaryList[i]
		used := len(all[s.CertificateARN]) > 0
		s.InUse = &used
	}
	return out, nil
}

// mirrored makes keys sort the other way round: they are digits and hexadecimal.
func mirrored(key string) string {
	out := []byte(key)
	for i, b := range out {
		out[i] = 0xff - b
	}
	return string(out)
}

func (r *Registry) heldIn(record store.Record) (*held, *x509.Certificate, error) {
	b, err := decode[certificateBody](record)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := b.leaf()
	at, _ := parseTail(record.Key)
	return &held{r.arn("acm", at.account, "certificate/"+at.id), at.account, at.id, b}, leaf, err
}

// listed says whether a list is to have the certificate. Without key types it has
// those of RSA with up to 2048 bits only, as in AWS.
func (r *Registry) listed(in *acmapi.ListCertificatesRequest, h *held, leaf *x509.Certificate, status acmapi.CertificateStatus) bool {
	if len(in.CertificateStatuses) > 0 && !slices.Contains(in.CertificateStatuses, status) {
		return false
	}
	types := []acmapi.KeyAlgorithm{acmapi.KeyAlgorithmRsa1024, acmapi.KeyAlgorithmRsa2048}
	if f := in.Includes; f != nil {
		if len(f.KeyTypes) > 0 {
			types = f.KeyTypes
		}
		if f.ManagedBy != "" || f.ExportOption != "" && f.ExportOption != h.export() {
			return false
		}
		if len(f.KeyUsage) > 0 && (leaf == nil || !slices.ContainsFunc(usages(leaf), func(u acmapi.KeyUsageName) bool { return slices.Contains(f.KeyUsage, u) })) {
			return false
		}
		if len(f.ExtendedKeyUsage) > 0 && (leaf == nil || !slices.ContainsFunc(extended(leaf), func(u extendedUsage) bool { return slices.Contains(f.ExtendedKeyUsage, u.name) })) {
			return false
		}
	}
	return slices.Contains(types, h.Algorithm)
}

func (r *Registry) summary(h *held, leaf *x509.Certificate) acmapi.CertificateSummary {
	more := len(h.Names) > listedNames
	out := acmapi.CertificateSummary{
		CertificateARN: h.arn, DomainName: h.Domain, SubjectAlternativeNameSummaries: h.Names[:min(len(h.Names), listedNames)], HasAdditionalSubjectAlternativeNames: &more,
		Status: h.state(leaf, r.now()), Type: h.Type, KeyAlgorithm: h.Algorithm, RenewalEligibility: h.eligibility(), ExportOption: h.export(),
		CreatedAt: at(h.Created), ImportedAt: at(h.Imported), IssuedAt: at(h.Issued), RevokedAt: at(h.Revoked),
	}
	if h.Type == acmapi.CertificateTypePrivate {
		exported := h.Exported
		out.Exported = &exported
	}
	if leaf != nil {
		out.NotBefore, out.NotAfter, out.KeyUsages = at(leaf.NotBefore), at(leaf.NotAfter), usages(leaf)
		for _, u := range extended(leaf) {
			out.ExtendedKeyUsages = append(out.ExtendedKeyUsages, u.name)
		}
	}
	return out
}
