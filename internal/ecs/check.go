package ecs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/document"
)

// HealthCommand is the guide's health check of the proxy (ECS-002).
const HealthCommand = "curl -s http://localhost:9901/server_info | grep state | grep -q LIVE"

// What the rules of Fargate are (ECS-007), and how many values one rule of iptables takes.
const (
	fargateMemory = 1024 // MiB, the least
	fargatePorts  = 1024 // ports are greater
	oneRule       = 15
)

// checker gathers the problems of one definition.
type checker struct {
	*Definition
	found []Problem
	envoy *Container
}

// Check says what would keep the task from working, and what a person should know, a line each.
func (d *Definition) Check() []Problem {
	c := &checker{Definition: d, envoy: d.Envoy()}
	c.found = append(c.found, d.forms...)
	if c.envoy == nil {
		if d.Proxy != nil {
			c.problem(d.node.Get("proxyConfiguration").Get("containerName"), "containerName %q of the proxy configuration is no container of the task: name the one that runs Envoy", d.Proxy.Container)
		} else {
			c.problem(nil, "no container is a proxy: add the one with Envoy, with APPMESH_RESOURCE_ARN in its environment")
		}
		return c.found
	}
	c.checkEnvoy()
	c.checkReach()
	switch {
	case c.envoy.Gateway():
		c.checkGateway()
	case d.Proxy == nil:
		if mode, _ := c.envoy.Env("EVERMESH_INTERCEPTION"); mode != "none" {
			c.problem(nil, "there is no proxyConfiguration: nothing leads the task's traffic through Envoy; add one, or set EVERMESH_INTERCEPTION=none")
		}
	default:
		c.checkProxy()
	}
	c.checkApplications()
	if d.fargate() {
		c.checkFargate()
	}
	return c.found
}

func (c *checker) problem(at *document.Node, format string, args ...any) {
	c.found = append(c.found, Problem{Where: c.where(at), Message: fmt.Sprintf(format, args...)})
}

func (c *checker) note(at *document.Node, format string, args ...any) {
	c.found = append(c.found, Problem{Where: c.where(at), Message: fmt.Sprintf(format, args...), Note: true})
}

// container is the tree of a container; its member where a name is given and it has that.
func (c *checker) container(name string, member ...string) *document.Node {
	n := item(c.node.Get("containerDefinitions"), "name", name)
	for _, m := range member {
		if inner := n.Get(m); inner != nil {
			return inner
		}
	}
	return n
}

// checkEnvoy looks at the proxy's container by itself.
func (c *checker) checkEnvoy() {
	e := c.envoy
	if c.Proxy != nil && e.Name != c.Proxy.Container {
		c.problem(c.node.Get("proxyConfiguration").Get("containerName"), "containerName %q of the proxy configuration is no container of the task: %s looks like the one with Envoy", c.Proxy.Container, e.Name)
	}
	if e.Essential != nil && !*e.Essential {
		c.problem(c.container(e.Name, "essential"), "%s is not essential: the task would go on without its proxy; set essential to true", e.Name)
	}
	if e.HealthCheck == nil || len(e.HealthCheck.Command) == 0 {
		c.problem(c.container(e.Name), `%s has no health check, and nothing can wait for it: add {"command": ["CMD-SHELL", %q], "startPeriod": 10, "interval": 5, "timeout": 2, "retries": 3}`, e.Name, HealthCommand)
	}
	if need := e.stopNeeded(); e.stop() < need {
		c.problem(c.container(e.Name, "stopTimeout"), "%s is killed after %d s, and drains for %d s: set stopTimeout to %d", e.Name, e.stop(), need-drainBeyond, need)
	}
	resource := e.Resource()
	switch {
	case resource == "" && slices.ContainsFunc(resourceVariables(), e.secret):
	case resource == "":
		c.problem(c.container(e.Name, "environment"), "%s does not say whose proxy it is: set APPMESH_RESOURCE_ARN to the ARN of the virtual node or gateway", e.Name)
	case !strings.Contains(resource, "mesh/") || !strings.Contains(resource, "/virtualNode/") && !strings.Contains(resource, "/virtualGateway/"):
		c.problem(c.container(e.Name, "environment"), "%s is the proxy of %q, which names no virtual node or gateway: want an ARN, or mesh/M/virtualNode/N", e.Name, resource)
	}
}

// checkReach looks at how the proxy reaches the control plane, and what it proves itself with.
func (c *checker) checkReach() {
	e := c.envoy
	if !e.has("APPMESH_XDS_ENDPOINT") {
		c.problem(c.container(e.Name, "environment"), "%s has no APPMESH_XDS_ENDPOINT: it would look for App Mesh itself; set it to host:port of the control plane", e.Name)
	}
	if !c.regional() {
		c.note(c.container(e.Name, "environment"), "%s signs for the region that ECS or the instance tells it: give it AWS_REGION where the control plane has another", e.Name)
	}
	own := slices.ContainsFunc([]string{"AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "EVERMESH_TOKEN_FILE", "APPMESH_XDS_CLIENT_CERT_FILE"}, e.has)
	switch {
	case own:
	case c.Role != "":
		c.note(c.node.Get("taskRoleArn"), "%s signs with the credentials of the task role, which the control plane has to know; a key of the control plane's own comes from a secret", e.Name)
	case c.fargate():
		c.problem(nil, "%s has no credentials: Fargate has no instance role; set taskRoleArn, or give the container a key from a secret", e.Name)
	default:
		c.note(nil, "%s signs with the credentials of the instance role, if the task may reach the instance's metadata, and the control plane has to know them", e.Name)
	}
}

// regional says whether the container says which region the control plane has, by AWS_REGION or the ARN of its node or gateway.
func (c *checker) regional() bool {
	return c.envoy.has("AWS_REGION") || strings.HasPrefix(c.envoy.Resource(), "arn:") || slices.ContainsFunc(resourceVariables(), c.envoy.secret)
}

// CheckOutside says what the proxy lacks where no ECS tells it: the region that it signs for.
func (d *Definition) CheckOutside() []Problem {
	c := &checker{Definition: d, envoy: d.Envoy()}
	if c.envoy != nil && !c.regional() {
		c.problem(c.container(c.envoy.Name, "environment"), "%s has no AWS_REGION, and outside of ECS nothing tells it: set it to the control plane's", c.envoy.Name)
	}
	return c.found
}

// checkGateway looks at what a gateway must not have (ECS-013).
func (c *checker) checkGateway() {
	if c.Proxy != nil {
		c.problem(c.node.Get("proxyConfiguration"), "%s is a virtual gateway's proxy, and must not have its traffic redirected: remove proxyConfiguration", c.envoy.Name)
	}
	if c.envoy.User != "" {
		c.problem(c.container(c.envoy.Name, "user"), "%s is a virtual gateway's proxy: remove user, which only redirection needs", c.envoy.Name)
	}
	for i := range c.Containers {
		if other := &c.Containers[i]; other.Name != c.envoy.Name && other.Name != caName {
			c.note(c.container(other.Name), "%s runs beside a virtual gateway's proxy, which stands alone as a rule", other.Name)
		}
	}
}

// checkProxy looks at the proxy configuration (ECS-020).
func (c *checker) checkProxy() {
	p, n := c.Proxy, c.node.Get("proxyConfiguration")
	if p.Type != "" && p.Type != "APPMESH" {
		c.problem(n.Get("type"), "type %q of the proxy configuration is not known: set it to APPMESH", p.Type)
	}
	if c.NetworkMode != "awsvpc" {
		c.problem(c.node.Get("networkMode"), "networkMode is %q: a task whose traffic is redirected needs a network namespace of its own; set it to awsvpc", c.NetworkMode)
	}
	c.checkNames(n.Get("properties"))
	if p.Property(IgnoredUID) == "" && p.Property(IgnoredGID) == "" {
		c.problem(n, "%s is missing: set it to the user of %s, such as 1337", IgnoredUID, c.envoy.Name)
	}
	if uid := p.Property(IgnoredUID); uid != "" {
		user, _, _ := strings.Cut(c.envoy.User, ":")
		if user != uid {
			c.problem(c.container(c.envoy.Name, "user"), "%s runs as user %q, and %s is %s: Envoy's own traffic would come back to it; set user to %q", c.envoy.Name, c.envoy.User, IgnoredUID, uid, uid)
		}
	}
	for _, want := range []Pair{{ProxyIngressPort, "15000"}, {ProxyEgressPort, "15001"}} {
		switch got := p.Property(want.Name); got {
		case want.Value:
		case "":
			c.problem(n, "%s is missing: set it to %s", want.Name, want.Value)
		default:
			c.problem(item(n.Get("properties"), "name", want.Name), "%s is %s, where Envoy does not listen: set it to %s", want.Name, got, want.Value)
		}
	}
	if len(p.List(AppPorts)) == 0 && c.servesPorts() {
		c.problem(n, "%s is missing: nothing that arrives would go through Envoy; list the ports of the virtual node's listeners", AppPorts)
	}
	if missing := c.Proxy.IgnoredAddresses()[len(p.List(EgressIgnoredIPs)):]; len(missing) > 0 {
		c.note(n, "%s does not list %s, the metadata and credentials: ECS's agent adds it", EgressIgnoredIPs, strings.Join(missing, ","))
	}
	if c.needsNFS() {
		c.problem(n, "the task has an EFS volume, which ECS mounts before Envoy runs: add %s to %s", nfsPort, EgressIgnoredPorts)
	}
}

// checkNames looks at the properties one by one.
func (c *checker) checkNames(all *document.Node) {
	seen := map[string]bool{}
	for _, pair := range c.Proxy.Properties {
		at := item(all, "name", pair.Name)
		if seen[pair.Name] {
			c.problem(at, "the property %s stands twice: remove one of them", pair.Name)
			continue
		}
		seen[pair.Name] = true
		if !slices.Contains(properties(), pair.Name) {
			instead := "remove it, or choose from " + strings.Join(properties(), ", ")
			for _, known := range properties() {
				if strings.EqualFold(known, pair.Name) {
					instead = fmt.Sprintf("it is written %q", known)
				}
			}
			c.problem(at, "the property %q is not known: %s", pair.Name, instead)
			continue
		}
		if pair.Name == EgressIgnoredIPs {
			continue
		}
		values := c.Proxy.List(pair.Name)
		for _, v := range values {
			if n, err := strconv.Atoi(v); err != nil || n < 0 || n > 65535 && pair.Name != IgnoredUID && pair.Name != IgnoredGID {
				c.problem(at, "%s is %q: want numbers, separated by commas", pair.Name, v)
			}
		}
		if len(values) > oneRule {
			c.note(at, "%s lists %d ports, of which App Mesh's plugin takes the first %d; evermesh-cni takes all", pair.Name, len(values), oneRule)
		}
	}
}

// servesPorts says whether an application of the task names a TCP port.
func (c *checker) servesPorts() bool {
	return slices.ContainsFunc(c.Containers, func(other Container) bool {
		return other.Name != c.envoy.Name && slices.ContainsFunc(other.Ports, func(p PortMapping) bool { return p.Protocol != "udp" })
	})
}

// checkApplications looks at who waits for the proxy (ECS-003, BP-008).
func (c *checker) checkApplications() {
	names := map[string]bool{}
	for i := range c.Containers {
		other := &c.Containers[i]
		switch {
		case other.Name == "":
			c.problem(nil, "container %d has no name", i+1)
		case names[other.Name]:
			c.problem(nil, "the name %s stands for two containers: rename one of them", other.Name)
		}
		names[other.Name] = true
	}
	before := c.before(c.envoy.Name, map[string]bool{})
	for i := range c.Containers {
		other := &c.Containers[i]
		for _, d := range other.DependsOn {
			if !names[d.Container] {
				c.problem(c.container(other.Name, "dependsOn"), "%s depends on %s, which is no container of the task", other.Name, d.Container)
			}
		}
		if other.Name == c.envoy.Name || before[other.Name] || c.Proxy == nil {
			continue
		}
		if user, _, _ := strings.Cut(other.User, ":"); user != "" && user == c.Proxy.Property(IgnoredUID) {
			continue // its traffic is left alone, as that of the X-Ray daemon
		}
		if !slices.Contains(other.DependsOn, Dependency{c.envoy.Name, "HEALTHY"}) {
			c.problem(c.container(other.Name, "dependsOn"), `%s does not wait for %s: add {"containerName": %q, "condition": "HEALTHY"} to its dependsOn`, other.Name, c.envoy.Name, c.envoy.Name)
		}
	}
}

// before are the containers that a container waits for, directly or not.
func (t *Task) before(name string, found map[string]bool) map[string]bool {
	for i := range t.Containers {
		if t.Containers[i].Name != name {
			continue
		}
		for _, d := range t.Containers[i].DependsOn {
			if !found[d.Container] {
				found[d.Container] = true
				t.before(d.Container, found)
			}
		}
	}
	return found
}

// checkFargate looks at what Fargate asks for (ECS-007).
func (c *checker) checkFargate() {
	if c.MiB() < fargateMemory {
		c.problem(c.node.Get("memory"), "memory is %q: a task with a proxy needs at least %d MiB on Fargate", c.Memory, fargateMemory)
	}
	if c.CPU == "" {
		c.problem(nil, "cpu is missing: Fargate asks for it; the guide's samples have 512")
	}
	for i := range c.Containers {
		for _, p := range c.Containers[i].Ports {
			if p.Container <= fargatePorts && !c.envoy.Gateway() {
				c.problem(c.container(c.Containers[i].Name, "portMappings"), "%s has the port %d: Fargate takes ports above %d alone", c.Containers[i].Name, p.Container, fargatePorts)
			}
		}
	}
	for _, text := range c.Proxy.List(AppPorts) {
		if port, err := strconv.Atoi(text); err == nil && port <= fargatePorts {
			c.problem(item(c.node.Get("proxyConfiguration").Get("properties"), "name", AppPorts), "%s has %d: Fargate takes ports above %d alone", AppPorts, port, fargatePorts)
		}
	}
}

// CheckListeners compares the ports that go through Envoy as they arrive with those of the node's listeners, which must be the
// same.
func (d *Definition) CheckListeners(ports []int) []Problem {
	if d.Proxy == nil {
		return nil
	}
	c := &checker{Definition: d}
	at := item(d.node.Get("proxyConfiguration").Get("properties"), "name", AppPorts)
	has := d.Proxy.List(AppPorts)
	for _, port := range ports {
		if !slices.Contains(has, strconv.Itoa(port)) {
			c.problem(at, "%s lacks %d, where the virtual node has a listener: what arrives there would not go through Envoy; add it", AppPorts, port)
		}
	}
	for _, text := range has {
		if port, err := strconv.Atoi(text); err == nil && !slices.Contains(ports, port) {
			c.problem(at, "%s has %d, where the virtual node has no listener: connections that arrive there would be refused; remove it", AppPorts, port)
		}
	}
	return c.found
}
