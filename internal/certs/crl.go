package certs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/store"
)

// crlDays is how long a list is valid when its authority does not say.
const crlDays = 7

// crlURL is where the authority's list is; empty when it has none, or certificates
// are not to name it.
func (r *Registry) crlURL(a *stated) string {
	if a.Revocation == nil || a.Revocation.CrlConfiguration == nil || !a.Revocation.CrlConfiguration.Enabled {
		return ""
	}
	crl := a.Revocation.CrlConfiguration
	if x := crl.CrlDistributionPointExtensionConfiguration; x != nil && x.OmitExtension {
		return ""
	}
	name := "/" + a.account + "/" + a.id + ".crl"
	if host := text(crl.CustomCname); host != "" {
		return "http://" + host + "/evermesh/crl" + name
	}
	if r.config.CRL == "" {
		return ""
	}
	return r.config.CRL + name
}

// ErrNoList says that there is no list of that name.
var ErrNoList = errors.New("there is no such list of revoked certificates")

// lists are the lists as they were signed last, so that whoever asks cannot have
// one signed for each question.
type lists struct {
	mu sync.Mutex
	of map[string]list
}

type list struct {
	from     []store.Record
	der      []byte
	again    time.Time
	revision int64
}

// CRL is the list, as DER, of what an authority has revoked, by the name that stands
// in certificates: <account>/<authority>.crl. A revocation is in it at once. A name
// that is none is ErrNoList.
func (r *Registry) CRL(ctx context.Context, name string) ([]byte, error) {
	account, file, _ := strings.Cut(name, "/")
	id, ok := strings.CutSuffix(file, ".crl")
	if !ok || len(account) != 12 || uuid.Validate(id) != nil {
		return nil, ErrNoList
	}
	records, revision, err := r.config.Store.Records(ctx, authorityScope(account, id).Tail()+"/")
	if err != nil {
		return nil, err
	}
	r.directory.lists.mu.Lock()
	defer r.directory.lists.mu.Unlock()
	now := r.now()
	if held, ok := r.directory.lists.of[name]; ok && now.Before(held.again) && sameRecords(held.from, records) {
		return held.der, nil
	}
	out := list{from: records, revision: revision}
	if out.der, out.again, err = r.signList(account, id, records, revision, now); err != nil {
		delete(r.directory.lists.of, name)
		return nil, err
	}
	if r.directory.lists.of == nil {
		r.directory.lists.of = map[string]list{}
	}
	r.directory.lists.of[name] = out
	return out.der, nil
}

func sameRecords(a, b []store.Record) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Key != b[i].Key || a[i].Revision != b[i].Revision {
			return false
		}
	}
	return true
}

// signList makes the list of these records of an authority. Its number is the
// store's revision, which only grows, at whatever replica.
func (r *Registry) signList(account, id string, records []store.Record, revision int64, now time.Time) (der []byte, again time.Time, err error) {
	var a *stated
	var revoked []authority.Revoked
	for _, record := range records {
		at, _ := parseTail(record.Key)
		switch {
		case at.rest == "authority":
			b, err := decode[authorityBody](record)
			if err != nil {
				return nil, again, err
			}
			a = &stated{"", account, id, b, record.Revision}
		case strings.HasPrefix(at.rest, "revoked/"):
			b, err := decode[revokedBody](record)
			if err != nil {
				return nil, again, err
			}
			if now.Before(b.NotAfter) {
				revoked = append(revoked, authority.Revoked{Serial: serialNumber(b.Serial), At: b.At, Reason: b.Reason})
			}
		}
	}
	if a == nil || a.Certificate == "" || a.Status == pcaapi.CertificateAuthorityStatusDeleted ||
		a.Revocation == nil || a.Revocation.CrlConfiguration == nil || !a.Revocation.CrlConfiguration.Enabled {
		return nil, again, ErrNoList
	}
	own, err := a.certificate()
	if err != nil {
		return nil, again, err
	}
	key, err := r.open(a.tail(), a.Key)
	if err != nil {
		return nil, again, err
	}
	days := int64(crlDays)
	if d := a.Revocation.CrlConfiguration.ExpirationInDays; d != nil {
		days = *d
	}
	life := time.Duration(days) * 24 * time.Hour
	der, err = authority.List(authority.Authority{Certificate: own, Key: key}, a.Configuration.SigningAlgorithm, revision, now.Truncate(time.Second), now.Add(life).Truncate(time.Second), revoked)
	return der, now.Add(life / 2), err
}
