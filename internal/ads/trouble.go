package ads

import (
	"maps"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Secrets are no part of the goal: they are asked for while the stream lives, a
// proxy may be denied one, and one that it refused may be good without being
// another, because the files that it names have appeared. So the machine keeps,
// for each that the proxy wants, what it may be given (machine.secrets) or why
// it has none (trouble).

// trouble is what keeps a secret from a proxy.
type trouble struct {
	refused bool // by the proxy; else it is not delivered
	unnamed bool // its configuration does not name the secret
	passing bool // its source may have it the next time
	reason  string
	since   time.Time
	version string    // what was refused first for this reason
	count   int       // how often in a row
	again   time.Time // when it is tried again; zero: not before something is another
}

// wanted is a secret that its source is to be asked for, and in which form.
type wanted struct {
	name string
	form int
}

const (
	// firstRetry is how long a secret in trouble waits for the first time, then
	// twice as long each time; lastRetry is the most.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 5 * time.Second
	// lastHope is how often a source may fail before the proxy is told that there
	// is no such secret: 3.5 s, if it fails at once.
	lastHope = 4
)

const unnamed = "nothing that the proxy is to have names it"

// due are the secrets to ask their source for now. It notes which the proxy may
// not have because nothing names them, and forgets what the proxy gave up.
func (m *machine) due(now time.Time) (out []wanted) {
	s := &m.of[envoy.Secret]
	if !s.spoken {
		return nil
	}
	if gone := func(r *envoy.Resource) bool { return !s.has(r.Name) }; slices.ContainsFunc(m.secrets, gone) {
		m.secrets = slices.DeleteFunc(slices.Clone(m.secrets), gone)
	}
	maps.DeleteFunc(m.troubles, func(n string, _ *trouble) bool { return !s.has(n) })
	maps.DeleteFunc(m.renewed, func(n string, _ bool) bool { return !s.has(n) })
	maps.DeleteFunc(m.forms, func(n string, _ int) bool { return !s.has(n) })
	maps.DeleteFunc(m.proofs, func(n string, _ proof) bool { return !s.has(n) })
	for _, n := range s.names {
		t, r := m.troubles[n], find(m.secrets, n)
		_, owed := s.owed[n]
		switch {
		case m.asking[n]:
			continue
		case !m.names(n):
			m.disown(now, n)
			continue
		case t == nil && r != nil && !m.renewed[n] && (!owed || r.Encoded != nil):
			continue // it has it, or is about to
		case t != nil && !t.unnamed && !m.renewed[n] && (t.again.IsZero() || now.Before(t.again)):
			continue // not yet
		}
		if t != nil {
			t.again = time.Time{}
		}
		delete(m.renewed, n)
		if m.asking == nil {
			m.asking = map[string]bool{}
		}
		m.asking[n] = true
		out = append(out, wanted{n, m.forms[n]})
	}
	return out
}

// disown takes in that nothing names a secret that the proxy asks for. While it
// drains what did, it keeps what it has, and nothing is wrong.
func (m *machine) disown(now time.Time, name string) {
	t := m.troubles[name]
	switch _, owed := m.of[envoy.Secret].owed[name]; {
	case t != nil && t.unnamed:
		return
	case t != nil:
		t.again, t.passing = time.Time{}, false
	case owed:
		m.deny(now, name, unnamed, true)
		t = m.troubles[name]
	}
	if t != nil {
		t.unnamed = true
	}
	m.secrets = without(m.secrets, []string{name})
}

// names says whether something that the proxy is to have, or may still have,
// names the secret: a cluster on its way out is used until its routes are gone,
// and one that is warming waits for its secret, whatever the newest goal is.
func (m *machine) names(secret string) bool {
	if _, ok := slices.BinarySearch(m.goal.secrets, secret); ok {
		return true
	}
	for _, t := range []envoy.Type{envoy.Cluster, envoy.Listener} {
		lists := [][]*envoy.Resource{m.of[t].held, nil}
		if f := m.of[t].flight; f != nil {
			lists[1] = f.sent
		}
		for _, list := range lists {
			for _, r := range list {
				if slices.Contains(r.Secrets, secret) {
					return true
				}
			}
		}
	}
	return false
}

// renew marks the secrets that are to be asked for again, and says whether there
// are any.
func (m *machine) renew(concerns func(name string) bool) (some bool) {
	for _, n := range m.of[envoy.Secret].names {
		if !concerns(n) {
			continue
		}
		if m.renewed == nil {
			m.renewed = map[string]bool{}
		}
		m.renewed[n], some = true, true
	}
	return some
}

// supply takes in what the source gave.
func (m *machine) supply(now time.Time, r *envoy.Resource) {
	s := &m.of[envoy.Secret]
	if !s.has(r.Name) {
		return // given up meanwhile
	}
	if t := m.troubles[r.Name]; t != nil && !t.refused {
		delete(m.troubles, r.Name)
	}
	old := find(s.held, r.Name)
	if _, owed := s.owed[r.Name]; !owed && old != nil && old.Hash == r.Hash {
		if m.doubted(r.Name) {
			s.owe(r.Name, now) // it says that it has it
		} else {
			delete(m.proofs, r.Name) // there is no other form
			r = sealed(r)
		}
	}
	m.secrets = union([]*envoy.Resource{r}, m.secrets)
}

// deny notes that a secret is not delivered. The source is asked again after a
// while, unless its word is final.
func (m *machine) deny(now time.Time, name, reason string, final bool) {
	if !m.of[envoy.Secret].has(name) {
		return
	}
	m.secrets = without(m.secrets, []string{name})
	if t := m.trouble(now, name, false, reason); !final {
		t.passing, t.again = true, now.Add(retryAfter(t.count))
	}
}

// hopeful says whether a secret that the proxy waits for may come yet. With that
// secret waits what names it, and with a cluster the routes that go to it; so there
// is an end to hope. What it refused it does not wait for.
func (m *machine) hopeful(name string) bool {
	t := m.troubles[name]
	return t == nil || t.refused || (t.passing && t.count < lastHope)
}

// refusedSecrets notes that the proxy refused what was sent. That there is no
// such secret it may refuse as it likes.
func (m *machine) refusedSecrets(now time.Time, f *flight, reason string) {
	s := &m.of[envoy.Secret]
	s.refusal = nil // there is one for each
	for _, r := range f.sent {
		if r.Hash == nothing {
			delete(s.refused, r.Name)
			delete(s.owed, r.Name)
			delete(m.proofs, r.Name) // whatever it had last, the next one is another
			continue
		}
		if s.has(r.Name) {
			delete(m.proofs, r.Name) // it has read it
			m.change(r.Name)
			t := m.trouble(now, r.Name, true, shortened(reason))
			if t.count == 1 {
				t.version = f.version
			}
			if !issued(r.Name) {
				t.again = now.Add(retryAfter(t.count))
			}
		}
	}
}

func (m *machine) acceptedSecrets(f *flight) {
	for _, r := range f.sent {
		if r.Hash == nothing || !m.prove(r.Name) {
			delete(m.proofs, r.Name)
		}
		if t := m.troubles[r.Name]; t != nil && t.refused {
			delete(m.troubles, r.Name)
		}
		if again := find(m.secrets, r.Name); again != nil && again.Hash == r.Hash {
			m.secrets = union([]*envoy.Resource{sealed(r)}, m.secrets) // asked for anew meanwhile
		}
	}
}

// trouble counts a trouble: on with the one before, if that was of its kind. Its
// text may be another: a file that was not there may now be no certificate.
func (m *machine) trouble(now time.Time, name string, refused bool, reason string) *trouble {
	t := m.troubles[name]
	if t == nil || t.refused != refused {
		t = &trouble{refused: refused}
	}
	if t.reason != reason {
		t.reason, t.since = reason, now
	}
	t.count++
	t.again, t.unnamed, t.passing = time.Time{}, false, false
	if m.troubles == nil {
		m.troubles = map[string]*trouble{}
	}
	m.troubles[name] = t
	return t
}

// known says whether a refusal is of a secret that was refused for the same
// reason before: whoever logs says so once.
func (m *machine) known(r request) bool {
	f := m.of[envoy.Secret].flight
	if r.typ != envoy.Secret || f == nil || r.nonce != f.nonce {
		return false
	}
	for _, x := range f.sent {
		if x.Hash == nothing {
			continue
		}
		if t := m.troubles[x.Name]; t == nil || t.reason != shortened(r.reason) {
			return false
		}
	}
	return true
}

// refusedSecret is the refusal that stands of the first of the refused secrets;
// the text names it, as Envoy may not.
func (m *machine) refusedSecret() *api.Refusal {
	for _, n := range slices.Sorted(maps.Keys(m.troubles)) {
		if t := m.troubles[n]; t.refused && !t.unnamed {
			return &api.Refusal{At: api.Timestamp{Time: t.since}, Message: shortened(clipped(n) + ": " + t.reason), Version: t.version}
		}
	}
	return nil
}

// sentence tells of the trouble with a secret.
func (t *trouble) sentence(name string) string {
	if t.refused {
		return "Secret " + clipped(name) + " was refused by Envoy: " + t.reason
	}
	return "Secret " + clipped(name) + " was not delivered: " + t.reason
}

// Reasons of the problems that streams find.
const (
	// ReasonSecretRefused: Envoy could not use a secret, such as a file that is
	// not there. It is tried again by itself.
	ReasonSecretRefused = "SecretRefused"
	// ReasonSecretDenied: a secret is not given to the proxy.
	ReasonSecretDenied = "SecretDenied"
)

// problems are the troubles of the proxy's secrets, as problems of its node or
// gateway: what needs them does not act.
func (p *proxy) problems() (out []api.Problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		return nil
	}
	names := slices.Sorted(maps.Keys(p.m.troubles))
	for _, n := range names[:min(len(names), maxNotes)] {
		t := p.m.troubles[n]
		if t.unnamed {
			continue // nothing needs it
		}
		reason := ReasonSecretDenied
		if t.refused {
			reason = ReasonSecretRefused
		}
		out = append(out, api.Problem{ResourceARN: p.arn, Reason: reason, Message: t.sentence(n)})
	}
	return out
}

// retry is when the next secret is tried again; zero: never.
func (m *machine) retry() (at time.Time) {
	for _, t := range m.troubles {
		at = sooner(at, t.again)
	}
	return at
}

func retryAfter(count int) time.Duration {
	d := firstRetry
	for range min(count-1, 10) {
		d *= 2
	}
	return min(d, lastRetry)
}

// seal forgets the content of secrets that were sent: it is not needed any more,
// and what is not in memory is not lost from there.
func (m *machine) seal(f *flight) {
	for i, r := range f.sent {
		f.sent[i] = sealed(r)
		if find(m.secrets, r.Name) == r {
			m.secrets = union([]*envoy.Resource{f.sent[i]}, m.secrets)
		}
	}
}

func sealed(r *envoy.Resource) *envoy.Resource { return &envoy.Resource{Name: r.Name, Hash: r.Hash} }
