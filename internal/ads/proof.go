package ads

import "github.com/evermesh/evermesh/internal/envoy"

// Envoy reads a secret when its content is another than the last one's, which it
// may have refused; else it acknowledges unread. So what a proxy that comes back
// says of secrets that it had before proves nothing, nor do the versions that it
// claims in delta, until it has been given two forms of the secret, one after the
// other: the second one it has read.

// proof says what is to be done before an acknowledgement of a secret counts.
type proof int

const (
	// perhapsUnread: the proxy asked for it before it had answered anything. If it
	// is returning, it had it before.
	perhapsUnread proof = iota + 1
	// surelyUnread: nothing that was sent on the stream names it.
	surelyUnread
	// proving: another form is on its way.
	proving
)

// suspect notes that the proxy asks for a secret.
func (m *machine) suspect(name string) {
	if m.answered {
		return // it asks for all that it had before it answers anything
	}
	if m.proofs == nil {
		m.proofs = map[string]proof{}
	}
	m.proofs[name] = perhapsUnread
	if m.nonces == 0 {
		m.proofs[name] = surelyUnread
	}
}

// doubted says whether an acknowledgement of the secret proves nothing.
func (m *machine) doubted(name string) bool {
	p := m.proofs[name]
	return p == surelyUnread || (p == perhapsUnread && m.returning)
}

// prove has a secret that is doubted asked for in another form.
func (m *machine) prove(name string) bool {
	if !m.doubted(name) {
		return false
	}
	m.proofs[name] = proving
	m.change(name)
	if m.renewed == nil {
		m.renewed = map[string]bool{}
	}
	m.renewed[name] = true
	return true
}

// change has the next form of a secret be another.
func (m *machine) change(name string) {
	if m.forms == nil {
		m.forms = map[string]int{}
	}
	m.forms[name]++
}

// issued says whether the secret is another only when its issuer says so. A file
// may be another without a word.
func issued(name string) bool {
	n, err := envoy.ParseSecret(name)
	return err == nil && len(n.ARNs) > 0
}

// lacking are the secrets that the goal's listeners name and that the proxy asked
// for and cannot use yet, for whatever reason: a listener's acknowledgement does
// not wait for them.
func (p *proxy) lacking(goal *goal) (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if goal == nil || p.m == nil {
		return nil
	}
	s := &p.m.of[envoy.Secret]
	for _, l := range goal.list(envoy.Listener) {
		for _, n := range l.Secrets {
			if s.has(n) && !p.m.usable(n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// usable says whether the proxy has accepted the secret, in whichever form.
func (m *machine) usable(secret string) bool {
	r := find(m.of[envoy.Secret].held, secret)
	return m.troubles[secret] == nil && m.proofs[secret] == 0 && r != nil && r.Hash != uncertain && r.Hash != nothing
}
