package ads

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// vault is a source of secrets: who may have which, and what they are.
type vault struct {
	mu     sync.Mutex
	values map[string]string
	varies bool // encoded in another way each time
	fails  bool // for another reason than that it may not be had
	gate   chan struct{}
	asked  []string
	keys   map[string][]string // of the last question
}

// times is how often it was asked: account, name, and form.
func (v *vault) times(question string) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range v.asked {
		if a == question {
			n++
		}
	}
	return n
}

func (v *vault) has(question string) bool { return v.times(question) > 0 }

// others are the questions that were asked for another account.
func (v *vault) others(account string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.asked), func(a string) bool { return strings.HasPrefix(a, account+" ") })
}

func (v *vault) set(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = value
}

func (v *vault) Secret(ctx context.Context, p auth.Caller, _ api.Key, name string, form int) (auth.Secret, error) {
	v.mu.Lock()
	v.asked = append(v.asked, fmt.Sprintf("%s %s %d", p.Account, name, form))
	v.keys = p.Keys
	value := v.values[name]
	v.mu.Unlock()
	if v.gate != nil {
		select {
		case <-v.gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	switch {
	case value == "" && v.fails:
		return "", errors.New("the store is away")
	case value == "":
		return "", api.Errorf(api.CodeAccessDenied, "acm:ExportCertificate is not allowed")
	case v.varies:
		value += strings.Repeat(" ", form%2)
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

// naming is the simple goal with a listener that names these secrets.
func naming(names ...string) spec {
	out := simple()
	in := *out[envoy.Listener][0]
	in.Secrets, in.Hash = names, in.Hash+strings.Join(names, " ")
	out[envoy.Listener] = []*envoy.Resource{&in, out[envoy.Listener][1]}
	return out
}

// secretRig is a rig whose client may ask for these secrets, with a stream that
// has everything else.
func secretRig(t *testing.T, v *vault, delta bool, names ...string) (*rig, *adstest.Stream) {
	t.Helper()
	r := newRig(t, func(c *Config) { c.Secrets = v })
	r.give("a", naming(names...))
	s := r.open(t, "a", delta)
	feed(t, s)
	return r, s
}

func askFor(t *testing.T, s *adstest.Stream, names ...string) {
	t.Helper()
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: names, Subscribe: names}))
}

// inAnyOrder wants these responses, sorted here, and answers each as refuse says.
// names are those of secrets, for answers in the state of the world.
func inAnyOrder(t *testing.T, s *adstest.Stream, names []string, refuse func(adstest.Response) string, want ...string) {
	t.Helper()
	var got []string
	for range want {
		f, refusal, of := s.Next(t), "", names
		if refuse != nil {
			refusal = refuse(f)
		}
		if f.Type != adstest.SDS {
			of = nil
		}
		got = append(got, f.String())
		adstest.Must(t, s.Send(s.Answer(f, refusal, of...)))
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestSecretsAreGivenToWhoMayHaveThem(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"mine": "1"}}
		r, s := secretRig(t, v, delta, "mine", "theirs")
		names := []string{"mine", "theirs", "unnamed"}
		askFor(t, s, names...)
		want := []string{"sds mine", "sds theirs", "sds unnamed"}
		if delta {
			want = []string{"sds -theirs", "sds -unnamed", "sds mine"}
		}
		inAnyOrder(t, s, names, func(f adstest.Response) string {
			if f.String() != "sds mine" {
				return "Envoy refuses what it cannot use"
			}
			if f.Resources[0].GetTypeUrl() != envoy.Secret.URL() {
				t.Errorf("type is %s", f.Resources[0].GetTypeUrl())
			}
			return ""
		}, want...)
		const denied = "Secret theirs was not delivered: acm:ExportCertificate is not allowed"
		const unnamed = "Secret unnamed was not delivered: nothing that the proxy is to have names it"
		testenv.Eventually(t, "the ledger says what is missing, and why", func() bool {
			return r.notes("a") == denied+"\n"+unnamed
		})
		row, _ := r.Row(client("a"))
		arn := row.Members[0].ResourceARN
		if diff := cmp.Diff([]api.Problem{{ResourceARN: arn, Reason: ReasonSecretDenied, Message: denied}}, row.Problems); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		if got := r.state("a"); got != "CURRENT" {
			t.Errorf("state is %s: a missing secret is to stay with itself", got)
		}
		v.set("theirs", "2")
		r.Recheck()
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds theirs"), "", names...)))
		testenv.Eventually(t, "only what nothing names is missing", func() bool { return r.notes("a") == unnamed })
		if v.has(account+" unnamed 0") || len(v.others(account)) > 0 {
			t.Errorf("asked for %q", v.asked)
		}
	})
}

// Who decides about secrets is told where the stream comes from, as it is then.
func TestSecretsAreAskedForWithTheStreamsKeys_TLS_008(t *testing.T) {
	v := &vault{values: map[string]string{"mine": "1"}}
	r := newRig(t, func(c *Config) {
		c.Secrets = v
		c.Keys = func(from From) map[string][]string { return map[string][]string{"from": {from.Address}} }
	})
	r.give("a", naming("mine"))
	s := r.open(t, "a", true)
	feed(t, s)
	askFor(t, s, "mine")
	inAnyOrder(t, s, []string{"mine"}, nil, "sds mine")
	v.mu.Lock()
	defer v.mu.Unlock()
	if from := v.keys["from"]; len(from) != 1 || from[0] == "" {
		t.Errorf("asked with %q", v.keys)
	}
}

func TestSecretsFollowTheConfiguration(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"old": "1", "new": "1"}}
		r, s := secretRig(t, v, delta, "old")
		askFor(t, s, "old")
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds old"), "", "old")))
		t.Run("what is on its way out may be asked for until it is gone", func(t *testing.T) {
			r.give("a", naming("new"))
			f := s.Expect(t, lds(delta))
			adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: []string{"new", "old"}, Subscribe: []string{"new"}}))
			adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds new"), "", "new", "old")))
			v.set("old", "2")
			r.Renew(func(name string) bool { return name == "old" })
			adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds old"), "", "new", "old")))
			adstest.Must(t, s.Send(s.Answer(f, "")))
		})
		t.Run("and not after that, which is no trouble while connections drain", func(t *testing.T) {
			testenv.Eventually(t, "the listener is accepted", func() bool { return r.state("a") == "CURRENT" })
			v.set("old", "3")
			v.set("new", "2")
			r.Renew(func(string) bool { return true })
			adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds new"), "", "new", "old")))
			if n := v.times(account + " old 0"); n != 2 {
				t.Errorf("its source was asked %d times, want twice", n)
			}
			if notes := r.notes("a"); notes != "" {
				t.Errorf("notes are %q", notes)
			}
		})
		t.Run("when it is named again, it may", func(t *testing.T) {
			r.give("a", naming("new", "old"))
			inAnyOrder(t, s, []string{"new", "old"}, nil, lds(delta), "sds old")
			testenv.Eventually(t, "nothing is missing", func() bool { return r.notes("a") == "" })
		})
	})
}

// lds is the response that changes the listener of naming.
func lds(delta bool) string {
	if delta {
		return "lds in"
	}
	return "lds in out"
}

func TestOnlyRenewedSecretsAreAskedForAgain(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"one": "1", "two": "1"}}
		r, s := secretRig(t, v, delta, "one", "two")
		askFor(t, s, "one", "two")
		inAnyOrder(t, s, []string{"one", "two"}, nil, "sds one", "sds two")
		v.set("two", "2")
		r.Renew(func(name string) bool { return name == "two" })
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds two"), "", "one", "two")))
		if n := v.times(account + " one 0"); n != 1 {
			t.Errorf("the other one was asked for %d times", n)
		}
		r.Renew(func(string) bool { return true }) // nothing is another: nothing is sent
		testenv.Eventually(t, "the source was asked", func() bool { return v.times(account+" one 0") == 2 && v.times(account+" two 0") == 3 })
		v.set("one", "3")
		r.Renew(func(name string) bool { return name == "one" })
		s.Expect(t, "sds one")
	})
}

func TestRefusedSecretIsTriedAgain(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"bad": "no key", "good": "1"}, varies: true}
		r, s := secretRig(t, v, delta, "bad", "good")
		names := []string{"bad", "good"}
		askFor(t, s, names...)
		inAnyOrder(t, s, names, func(f adstest.Response) string {
			if f.String() == "sds bad" {
				return "no such file"
			}
			return ""
		}, "sds bad", "sds good")
		for range 2 {
			adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds bad"), "no such file", names...)))
		}
		row, _ := r.Row(client("a"))
		if len(row.Problems) != 1 || row.Problems[0].Message != "Secret bad was refused by Envoy: no such file" || row.Problems[0].Reason != ReasonSecretRefused {
			t.Errorf("problems are %+v", row.Problems)
		}
		if got := r.state("a"); got != "CURRENT" {
			t.Errorf("state is %s: a refused secret is to stay with itself", got)
		}
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds bad"), "", names...)))
		testenv.Eventually(t, "nothing is wrong any more", func() bool { row, _ := r.Row(client("a")); return len(row.Problems) == 0 })
		for form := range 4 {
			if !v.has(fmt.Sprintf("%s bad %d", account, form)) {
				t.Errorf("the source was not asked for form %d: %q", form, v.asked)
			}
		}
	})
}

func TestRefusedSecretThatStaysAsItIsIsNotSentAgain(t *testing.T) {
	v := &vault{values: map[string]string{"bad": "no key"}}
	r, s := secretRig(t, v, true, "bad")
	askFor(t, s, "bad")
	adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds bad"), "no key")))
	testenv.Eventually(t, "its source is asked again", func() bool { return v.has(account + " bad 1") })
	v.set("bad", "a key")
	r.Renew(func(name string) bool { return name == "bad" })
	s.Expect(t, "sds bad")
}

func TestSourceThatFailsIsAskedAgain(t *testing.T) {
	v := &vault{values: map[string]string{}, fails: true}
	r, s := secretRig(t, v, true, "mine")
	askFor(t, s, "mine")
	adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds -mine"), "not found")))
	testenv.Eventually(t, "the ledger says so", func() bool { return r.notes("a") == "Secret mine was not delivered: the store is away" })
	v.set("mine", "1")
	s.Expect(t, "sds mine")
}

func TestSlowSourceHoldsNothingElseBack(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		v := &vault{values: map[string]string{"mine": "1"}, gate: make(chan struct{})}
		r, s := secretRig(t, v, delta, "mine")
		askFor(t, s, "mine")
		testenv.Eventually(t, "the source is asked", func() bool { return v.has(account + " mine 0") })
		next := naming("mine")
		next[envoy.Route] = []*envoy.Resource{routeOf("r", virtualHost("x", "2", "a"), virtualHost("y", "1", "b"))}
		r.give("a", next)
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "rds r"), "", "r")))
		close(v.gate)
		s.Expect(t, "sds mine")
	})
}

func TestReturningProxyIsGivenWhatIsAnother(t *testing.T) {
	v := &vault{values: map[string]string{"same": "1", "other": "1"}}
	r, s := secretRig(t, v, true, "other", "same")
	askFor(t, s, "other", "same")
	versions := map[string]string{}
	inAnyOrder(t, s, nil, func(f adstest.Response) string {
		versions[f.Names[0]] = f.Versions[f.Names[0]]
		return ""
	}, "sds other", "sds same")
	s.Close()
	v.set("other", "2")
	s = r.open(t, "a", true)
	feed(t, s)
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Subscribe: []string{"other", "same"}, Versions: versions}))
	adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds other"), "")))
	v.set("same", "2")
	r.Renew(func(name string) bool { return true })
	s.Expect(t, "sds same")
}

func TestSentSecretsAreNotKept(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r, s := secretRig(t, &vault{values: map[string]string{"mine": "1"}}, delta, "mine")
		askFor(t, s, "mine")
		adstest.Must(t, s.Send(s.Answer(s.Expect(t, "sds mine"), "", "mine")))
		r.Renew(func(string) bool { return true })
		testenv.Eventually(t, "no content is left in memory", func() bool {
			r.Server.mu.Lock()
			defer r.Server.mu.Unlock()
			for p := range r.groups[client("a")].members {
				p.mu.Lock()
				defer p.mu.Unlock()
				of := &p.m.of[envoy.Secret]
				if len(p.m.asking) > 0 || of.flight != nil || len(of.held) != 1 {
					return false
				}
				return of.held[0].Encoded == nil && p.m.secrets[0].Encoded == nil
			}
			return false
		})
	})
}

func TestSecretsWithoutASource(t *testing.T) {
	r := newRig(t, nil)
	r.give("a", naming("cert"))
	s := r.open(t, "a", false)
	feed(t, s)
	adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Names: []string{"cert"}}))
	testenv.Eventually(t, "the ledger says so", func() bool { return r.notes("a") == "Secret cert was not delivered: no source serves it" })
}

func TestRetriesHaveABound(t *testing.T) {
	var last time.Duration
	for count := 1; count < 100; count++ {
		d := retryAfter(count)
		if d < last || d > 5*time.Second || d <= 0 {
			t.Fatalf("retry %d comes after %v, the one before after %v", count, d, last)
		}
		last = d
	}
	if last != 5*time.Second {
		t.Errorf("the last ones come after %v", last)
	}
}
