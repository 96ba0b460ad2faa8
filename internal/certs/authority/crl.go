package authority

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
)

// Revoked is a certificate that was taken back.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason pcaapi.RevocationReason
}

// reasons are the codes of RFC 5280, 5.3.1.
var reasons = map[pcaapi.RevocationReason]int{
	pcaapi.RevocationReasonUnspecified:                    0,
	pcaapi.RevocationReasonKeyCompromise:                  1,
	pcaapi.RevocationReasonCertificateAuthorityCompromise: 2,
	pcaapi.RevocationReasonAffiliationChanged:             3,
	pcaapi.RevocationReasonSuperseded:                     4,
	pcaapi.RevocationReasonCessationOfOperation:           5,
	pcaapi.RevocationReasonPrivilegeWithdrawn:             9,
	pcaapi.RevocationReasonAACompromise:                   10,
}

// List is what an authority says it has revoked, signed, as DER. number grows with
// every list.
func List(a Authority, signing pcaapi.SigningAlgorithm, number int64, from, until time.Time, revoked []Revoked) ([]byte, error) {
	list := &x509.RevocationList{
		SignatureAlgorithm: signatures[signing], Number: big.NewInt(number), ThisUpdate: from, NextUpdate: until,
	}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.Serial, RevocationTime: r.At, ReasonCode: reasons[r.Reason],
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Certificate, a.Key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return der, nil
}
