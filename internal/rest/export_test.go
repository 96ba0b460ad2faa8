package rest

import "github.com/evermesh/evermesh/internal/auth"

// Fingerprint is what tells the input of a call with a client token from others.
func Fingerprint(operation string, input map[string]any) (string, error) {
	t, err := new(Server).token(&call{op: operation, doc: input, principal: auth.Principal{}})
	if err != nil {
		return "", err
	}
	return t.Fingerprint, nil
}

// Limiters is how many access keys have a limiter of their own.
func (s *Server) Limiters() int {
	s.rates.mu.Lock()
	defer s.rates.mu.Unlock()
	return len(s.rates.limiters)
}

// LargeBodiesHeld is how many large bodies are being read or used.
func (s *Server) LargeBodiesHeld() int { return len(s.bodies.large) }

// LargeBodies and SmallBody are the bounds of what bodies may hold.
const (
	LargeBodies = largeBodies
	SmallBody   = smallBody
)

// Abouts calls see with each row of what operations of services elsewhere are about.
func Abouts(see func(service, resource, operations string)) {
	for service, rows := range abouts {
		for _, row := range rows {
			see(service, row.resource, row.operations)
		}
	}
}

// Conditions are the condition keys that inputs of services elsewhere give, with the
// members that have their values.
func Conditions() map[string][]string { return conditions }
