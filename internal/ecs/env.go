package ecs

import "strings"

// Env is what a plain host needs in the place of ECS: the variables of `evermesh-agent intercept`, which come first, and those
// of the agent.
type Env struct {
	Intercept []Pair `json:"intercept,omitempty"` // none for a gateway
	Agent     []Pair `json:"agent"`
	// Secrets are the agent's variables that ECS takes from secrets, and where from.
	Secrets []Pair `json:"secrets,omitempty"`
}

// Env are the variables for a plain host.
func (d *Definition) Env() Env {
	out := Env{Intercept: d.intercept(), Agent: []Pair{}}
	envoy := d.Envoy()
	if envoy == nil {
		return out
	}
	out.Agent = append(out.Agent, envoy.Environment...)
	for _, s := range envoy.Secrets {
		out.Secrets = append(out.Secrets, Pair{s.Name, s.From})
	}
	return out
}

// intercept are the variables of the route manager that say what the proxy configuration says; none without one.
func (d *Definition) intercept() []Pair {
	p := d.Proxy
	if p == nil {
		return nil
	}
	out := []Pair{{"APPMESH_START_ENABLED", "1"}}
	for _, m := range []struct{ variable, value string }{
		{"APPMESH_IGNORE_UID", p.Property(IgnoredUID)},
		{"APPMESH_IGNORE_GID", p.Property(IgnoredGID)},
		{"APPMESH_ENVOY_INGRESS_PORT", p.Property(ProxyIngressPort)},
		{"APPMESH_ENVOY_EGRESS_PORT", p.Property(ProxyEgressPort)},
		{"APPMESH_APP_PORTS", strings.Join(p.List(AppPorts), ",")},
		{"APPMESH_EGRESS_IGNORED_PORTS", strings.Join(p.List(EgressIgnoredPorts), ",")},
		{"APPMESH_EGRESS_IGNORED_IP", strings.Join(p.IgnoredAddresses(), ",")},
		{"APPMESH_ENABLE_IPV6", "1"},
	} {
		if m.value != "" {
			out = append(out, Pair{m.variable, m.value})
		}
	}
	return out
}
