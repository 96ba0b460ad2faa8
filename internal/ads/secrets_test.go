package ads

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// vault is a source of secrets: who may have which, and what they are.
type vault struct {
	mu     sync.Mutex
	values map[string]string
	asked  []string
}

func (v *vault) set(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = value
}

func (v *vault) Secret(_ context.Context, p auth.Principal, name string) (auth.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = append(v.asked, p.Account+" "+name)
	value := v.values[name]
	if value == "" {
		return "", errors.New("acm:ExportCertificate is not allowed")
	}
	content := &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: value}}
	b, err := proto.Marshal(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: content}}})
	return auth.Secret(b), err
}

func (r *rig) notes(name string) string {
	row, _ := r.Row(client(name))
	if len(row.Members) == 0 {
		return ""
	}
	return strings.Join(row.Members[0].Notes, "\n")
}

func TestSecretsAreGivenToWhoMayHaveThem(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"mine": "1"}}
		r := newRig(t, func(c *Config) { c.Secrets = v })
		s := r.open(t, "a", delta)
		feed(t, s)
		names := []string{"mine", "theirs"}
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: names, Subscribe: names}))
		want := "sds mine"
		if delta {
			want += " -theirs"
		}
		f := s.Expect(t, want)
		if f.Resources[0].GetTypeUrl() != envoy.Secret.URL() {
			t.Errorf("type is %s", f.Resources[0].GetTypeUrl())
		}
		adstest.Must(t, s.Send(s.Answer(f, "", names...)))
		testenv.Eventually(t, "the ledger says what is missing, and why", func() bool {
			return r.notes("a") == "Secret theirs was not delivered: acm:ExportCertificate is not allowed"
		})
		if got := r.state("a"); got != "CURRENT" {
			t.Errorf("state is %s: a missing secret is to stay with itself", got)
		}
		v.set("theirs", "2")
		r.Recheck()
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds theirs"), "", names...)))
		testenv.Eventually(t, "nothing is missing", func() bool { return r.notes("a") == "" })
		v.mu.Lock()
		defer v.mu.Unlock()
		if slices.ContainsFunc(v.asked, func(a string) bool { return !strings.HasPrefix(a, account+" ") }) {
			t.Errorf("asked for %q", v.asked)
		}
	})
}

func TestSecretsWithoutASource(t *testing.T) {
	r := newRig(t, nil)
	s := r.open(t, "a", false)
	feed(t, s)
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: []string{"cert"}}))
	testenv.Eventually(t, "the ledger says so", func() bool { return r.notes("a") == "Secret cert was not delivered: no source serves it" })
}
