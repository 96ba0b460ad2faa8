package ads

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

func (r *rig) lacks(name string, secrets ...string) bool {
	row, ok := r.Row(client(name))
	return ok && len(row.Members) > 0 && slices.Equal(row.Lacking, secrets)
}

// What a proxy that comes back acknowledges first, it may not have read.
func TestReturningProxyIsGivenTwoFormsOfASecret(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		for name, test := range map[string]struct {
			first   adstest.Request // on the second stream
			refusal string
		}{
			"it accepts the other one":        {adstest.Request{Type: adstest.CDS, Version: "before", Versions: map[string]string{"a": "before"}}, ""},
			"it refuses the other one":        {adstest.Request{Type: adstest.CDS, Version: "before", Versions: map[string]string{"a": "before"}}, "no such file"},
			"it has accepted no clusters yet": {adstest.Request{}, "no such file"},
		} {
			t.Run(name, func(t *testing.T) {
				v := &vault{values: map[string]string{"mine": "1"}, varies: true}
				r, s := secretRig(t, v, delta, "mine")
				askFor(t, s, "mine")
				f := s.Expect(t, "sds mine")
				if !r.lacks("a", "mine") {
					t.Error("the ledger does not say that it lacks the secret yet")
				}
				adstest.Must(t, s.Send(s.Answer(f, "", "mine")))
				testenv.Eventually(t, "a proxy without a past is believed", func() bool { return r.lacks("a") })
				s.Close()
				testenv.Eventually(t, "it has left", func() bool { return r.state("a") == "" })

				s = r.open(t, "a", delta)
				if test.first.Type != "" {
					adstest.Must(t, s.Send(test.first))
					s.Next(t)
				}
				adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: []string{"mine"}, Version: f.Version, Subscribe: []string{"mine"}, Versions: f.Versions}))
				one := s.Expect(t, "sds mine")
				adstest.Must(t, s.Send(s.Answer(one, "", "mine")))
				other := s.Expect(t, "sds mine")
				if string(one.Resources[0].GetValue()) == string(other.Resources[0].GetValue()) {
					t.Error("both are the same")
				}
				if !r.lacks("a", "mine") {
					t.Error("it is believed that it has the secret")
				}
				adstest.Must(t, s.Send(s.Answer(other, test.refusal, "mine")))
				if test.refusal == "" {
					testenv.Eventually(t, "it is believed", func() bool { return r.lacks("a") })
				} else {
					adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds mine"), "", "mine")))
					testenv.Eventually(t, "it has the secret", func() bool { return r.lacks("a") })
				}
				r.Renew(func(string) bool { return true })
				asked := fmt.Sprintf("%s mine %d", account, map[bool]int{true: 1, false: 2}[test.refusal == ""])
				testenv.Eventually(t, "it is asked for in the form that the proxy has", func() bool { return v.times(asked) == 2 })
				v.set("mine", "2")
				r.Renew(func(string) bool { return true })
				if f := s.Expect(t, "sds mine"); string(f.Resources[0].GetValue()) == string(other.Resources[0].GetValue()) {
					t.Error("a secret that is no other was sent again")
				}
			})
		}
	})
}

// Nothing in the proxy is another when a secret is not named for a while: what it
// refused it does not read again.
func TestRefusedSecretThatIsNamedAgainTakesAnotherForm(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		for name, unname := range map[string]func(*rig, *vault){
			"it is not named":     nil,
			"it is not delivered": func(r *rig, v *vault) { v.set("bad", ""); r.Recheck() },
		} {
			t.Run(name, func(t *testing.T) {
				v := &vault{values: map[string]string{"bad": "1", "good": "1"}, varies: true}
				r, s := secretRig(t, v, delta, "bad", "good")
				names := []string{"bad", "good"}
				askFor(t, s, names...)
				var refused string
				inAnyOrder(t, s, names, func(f adstest.Response) string {
					if f.String() != "sds bad" {
						return ""
					}
					refused = string(f.Resources[0].GetValue())
					return "no such file"
				}, "sds bad", "sds good")
				// It is in trouble now, and its turn comes.
				f := s.Expect(t, "sds bad")
				if unname != nil {
					unname(r, v)
					testenv.Eventually(t, "it is denied", func() bool { return r.notes("a") != "" })
				} else {
					r.give("a", naming("good"))
					adstest.Must(t, s.Send(s.Answer(s.Expect(t, lds(delta)), "")))
				}
				adstest.Must(t, s.Send(s.Answer(f, "no such file", names...)))
				last := string(f.Resources[0].GetValue())
				if last == refused {
					t.Error("what was refused was sent again")
				}
				if unname != nil {
					s.Expect(t, map[bool]string{true: "sds -bad", false: "sds bad"}[delta])
					return
				}
				testenv.Eventually(t, "nothing that matters is wrong", func() bool { row, _ := r.Row(client("a")); return len(row.Problems) == 0 })
				r.give("a", naming("bad", "good"))
				var again string
				inAnyOrder(t, s, names, func(f adstest.Response) string {
					if f.String() == "sds bad" {
						again = string(f.Resources[0].GetValue())
					}
					return ""
				}, lds(delta), "sds bad")
				if again == last {
					t.Error("it is sent in the form that was refused last")
				}
				testenv.Eventually(t, "nothing is wrong", func() bool { row, _ := r.Row(client("a")); return len(row.Problems)+len(row.Lacking) == 0 })
			})
		}
	})
}

// What an issuer gave is no better the next time, unless the issuer says so.
func TestRefusedIssuedSecretIsNotTriedAgain(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	name := envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{arnOf + "1"}}.String()
	g := goalWith(naming("file", name))
	m := &machine{delta: true, goal: g, silence: time.Minute, patience: patience}
	adstest.Must(t, m.receive(now, request{typ: envoy.Secret, subscribe: []string{"file", name}}))
	for _, w := range m.due(now) {
		delete(m.asking, w.name)
		m.supply(now, &envoy.Resource{Name: w.name, Hash: fmt.Sprint(w.form), Encoded: []byte{1}})
	}
	for range 2 {
		f, _ := m.next(now)
		adstest.Must(t, m.receive(now, request{typ: envoy.Secret, nonce: f.nonce, refused: true, reason: "no"}))
	}
	if due := m.due(now.Add(time.Hour)); !slices.Equal(due, []wanted{{"file", 1}}) {
		t.Errorf("asked for again are %+v", due)
	}
	m.renew(func(string) bool { return true })
	if due := m.due(now.Add(time.Hour)); !slices.Equal(due, []wanted{{name, 1}}) {
		t.Errorf("when its issuer says so: %+v", due)
	}
}
