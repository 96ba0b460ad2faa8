package envoy

import "maps"

// ProgramSize is what the guard of patterns counts.
var ProgramSize = programSize

// CheckFormat is the guard of access logs.
var CheckFormat = checkFormat

// Commands are those that it knows, and whether they need a parameter.
func Commands() map[string]bool {
	out := map[string]bool{}
	for name, t := range maps.All(commands) {
		out[name] = t.needed
	}
	return out
}

// Callees counts what is held of services: by policy, and whatever the policy.
func (o *Builder) Callees() (callees, served int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.callees), len(o.served)
}
