package ecs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/document"
)

// The services of a Compose file that stand for what ECS does by itself: the task's network namespace, and the redirection.
const (
	networkService   = "task-network"
	interceptService = "task-intercept"
)

// composer makes one Compose file.
type composer struct {
	*Definition
	checker checker
	image   string // of a program that waits
}

// Compose is the task as a Compose file for Docker hosts, as a document. One network namespace holds all containers; the route
// manager redirects first, with NET_ADMIN; dependencies and health checks are ECS's. routeManager is the image of the former, ""
// for [DefaultRouteManagerImage]. The notes say what of the task Compose has nothing for.
func (d *Definition) Compose(routeManager string) (map[string]any, []Problem) {
	if routeManager == "" {
		routeManager = DefaultRouteManagerImage
	}
	c := &composer{Definition: d, checker: checker{Definition: d}, image: DefaultImage}
	if envoy := d.Envoy(); envoy != nil && !appMeshImage(envoy.Image) {
		c.image = envoy.Image
	}
	services := map[string]any{networkService: c.network()}
	if d.Proxy != nil {
		services[interceptService] = map[string]any{
			"image": routeManager, "network_mode": "service:" + networkService,
			"cap_drop": []string{"ALL"}, "cap_add": []string{"NET_ADMIN"}, "environment": variables(d.intercept()),
			"depends_on": map[string]any{networkService: condition("service_started")},
		}
	}
	for i := range d.Containers {
		services[d.Containers[i].Name] = c.service(&d.Containers[i])
	}
	out := map[string]any{"name": strings.ToLower(d.Family), "services": services}
	volumes := map[string]any{}
	for _, v := range d.Volumes {
		switch {
		case v.EFS != nil:
			c.checker.note(item(d.node.Get("volumes"), "name", v.Name), "the volume %s is of EFS: here it is one of Docker, and empty", v.Name)
			volumes[v.Name] = map[string]any{}
		case v.Host == nil || v.Host.Path == "":
			volumes[v.Name] = map[string]any{}
		}
	}
	if len(volumes) > 0 {
		out["volumes"] = volumes
	}
	return out, c.checker.found
}

func condition(name string) map[string]any { return map[string]any{"condition": name} }

// network is the service that holds the namespace: it only waits. The ports of all containers are its own.
func (c *composer) network() map[string]any {
	out := map[string]any{"image": c.image, "entrypoint": []string{"/bin/sleep", "2147483647"}, "init": true}
	var ports []string
	for i := range c.Containers {
		for _, p := range c.Containers[i].Ports {
			host := p.Host
			if host == 0 {
				host = p.Container
			}
			one := fmt.Sprintf("%d:%d", host, p.Container)
			if p.Protocol == "udp" {
				one += "/udp"
			}
			if !slices.Contains(ports, one) {
				ports = append(ports, one)
			}
		}
	}
	if len(ports) > 0 {
		out["ports"] = ports
	}
	return out
}

// service is a container's.
func (c *composer) service(of *Container) map[string]any {
	out := map[string]any{
		"image": of.Image, "network_mode": "service:" + networkService, "depends_on": c.dependencies(of),
		"stop_grace_period": fmt.Sprintf("%ds", of.stop()),
	}
	if env := c.environment(of); len(env) > 0 {
		out["environment"] = env
	}
	for name, values := range map[string][]string{"entrypoint": of.EntryPoint, "command": of.Command, "cap_add": of.LinuxOptions.Capabilities.Add, "cap_drop": of.LinuxOptions.Capabilities.Drop} {
		if len(values) > 0 {
			out[name] = literals(values)
		}
	}
	for name, value := range map[string]string{"user": of.User, "working_dir": of.Directory} {
		if value != "" {
			out[name] = literal(value)
		}
	}
	for name, on := range map[string]bool{"read_only": of.ReadOnly, "privileged": of.Privileged, "init": of.LinuxOptions.Init} {
		if on {
			out[name] = true
		}
	}
	for name, mib := range map[string]int{"mem_limit": of.Memory, "mem_reservation": of.MemoryReservation} {
		if mib > 0 {
			out[name] = strconv.Itoa(mib) + "m"
		}
	}
	if of.CPU > 0 {
		out["cpu_shares"] = of.CPU
	}
	if h := of.HealthCheck; h != nil && len(h.Command) > 0 {
		out["healthcheck"] = health(h)
	}
	if len(of.Labels) > 0 {
		labels := map[string]string{}
		for k, v := range of.Labels {
			labels[k] = literal(v)
		}
		out["labels"] = labels
	}
	if len(of.Ulimits) > 0 {
		limits := map[string]any{}
		for _, u := range of.Ulimits {
			limits[u.Name] = map[string]int{"soft": u.Soft, "hard": u.Hard}
		}
		out["ulimits"] = limits
	}
	if mounts := c.mounts(of); len(mounts) > 0 {
		out["volumes"] = mounts
	}
	c.left(of)
	return out
}

// dependencies of a container: those of its own, and that its namespace is as it must be.
func (c *composer) dependencies(of *Container) map[string]any {
	out := map[string]any{networkService: condition("service_started")}
	if c.Proxy != nil {
		out[interceptService] = condition("service_completed_successfully")
	}
	for _, d := range of.DependsOn {
		switch d.Condition {
		case "HEALTHY":
			out[d.Container] = condition("service_healthy")
		case "COMPLETE", "SUCCESS":
			out[d.Container] = condition("service_completed_successfully")
		default:
			out[d.Container] = condition("service_started")
		}
	}
	return out
}

// environment has the values, and for secrets a variable of the same name of whoever runs Compose.
func (c *composer) environment(of *Container) map[string]string {
	out := variables(of.Environment)
	for _, s := range of.Secrets {
		out[s.Name] = fmt.Sprintf("${%s:?ECS has it from %s}", s.Name, strings.NewReplacer("$", "", "}", "").Replace(s.From))
	}
	return out
}

func variables(pairs []Pair) map[string]string {
	out := map[string]string{}
	for _, p := range pairs {
		out[p.Name] = literal(p.Value)
	}
	return out
}

// literal keeps Compose from replacing what looks like a variable.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }

func literals(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = literal(s)
	}
	return out
}

// health is a health check with ECS's defaults, which are not Docker's.
func health(h *HealthCheck) map[string]any {
	seconds := func(n, otherwise int) string {
		if n == 0 {
			n = otherwise
		}
		return fmt.Sprintf("%ds", n)
	}
	retries := h.Retries
	if retries == 0 {
		retries = 3
	}
	return map[string]any{
		"test": literals(h.Command), "interval": seconds(h.Interval, 30), "timeout": seconds(h.Timeout, 5),
		"start_period": seconds(h.StartPeriod, 0), "retries": retries,
	}
}

func (c *composer) mounts(of *Container) []string {
	var out []string
	for _, m := range of.MountPoints {
		source := m.Volume
		for _, v := range c.Volumes {
			if v.Name == m.Volume && v.Host != nil && v.Host.Path != "" {
				source = v.Host.Path
			}
		}
		one := literal(source + ":" + m.Path)
		if m.ReadOnly {
			one += ":ro"
		}
		out = append(out, one)
	}
	return out
}

// left notes what of a container has no place in the file.
func (c *composer) left(of *Container) {
	n := item(c.node.Get("containerDefinitions"), "name", of.Name)
	for _, f := range of.Files {
		c.checker.note(n.Get("environmentFiles"), "%s has variables from %s: add it as env_file", of.Name, f.Value)
	}
	for _, name := range []string{"logConfiguration", "repositoryCredentials", "firelensConfiguration", "resourceRequirements", "systemControls"} {
		if at := n.Get(name); at != nil && (at.Kind != document.List || len(at.Items) > 0) {
			c.checker.note(at, "%s: %s is left out", of.Name, name)
		}
	}
	if of.Name == networkService || of.Name == interceptService {
		c.checker.problem(n, "the container's name %s is that of a service which this adds: rename it", of.Name)
	}
}
