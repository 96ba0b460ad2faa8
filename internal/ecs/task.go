package ecs

import (
	"slices"
	"strconv"
	"strings"
)

// Task is the part of RegisterTaskDefinition's input that matters here, in the words of ECS's API.
type Task struct {
	Family      string      `json:"family"`
	NetworkMode string      `json:"networkMode"`
	CPU         string      `json:"cpu"`    // units, or "0.5 vCPU"
	Memory      string      `json:"memory"` // MiB, or "1 GB"
	Requires    []string    `json:"requiresCompatibilities"`
	Role        string      `json:"taskRoleArn"`
	Proxy       *Proxy      `json:"proxyConfiguration"`
	Containers  []Container `json:"containerDefinitions"`
	Volumes     []Volume    `json:"volumes"`
}

// Pair is a name with its value: a variable, or a property of the proxy configuration.
type Pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Proxy says how ECS has a task's traffic redirected (ICPT-001). The values of all properties are texts.
type Proxy struct {
	Type       string `json:"type"`
	Container  string `json:"containerName"`
	Properties []Pair `json:"properties"`
}

// The properties of a proxy configuration.
const (
	IgnoredUID         = "IgnoredUID"
	IgnoredGID         = "IgnoredGID"
	ProxyIngressPort   = "ProxyIngressPort"
	ProxyEgressPort    = "ProxyEgressPort"
	AppPorts           = "AppPorts"
	EgressIgnoredIPs   = "EgressIgnoredIPs"
	EgressIgnoredPorts = "EgressIgnoredPorts"
)

func properties() []string {
	return []string{IgnoredUID, IgnoredGID, ProxyIngressPort, ProxyEgressPort, AppPorts, EgressIgnoredIPs, EgressIgnoredPorts}
}

// Property is the value of a property, trimmed; "" without it. Their order means nothing (ECS-020).
func (p *Proxy) Property(name string) string {
	if p == nil {
		return ""
	}
	for _, pair := range p.Properties {
		if pair.Name == name {
			return strings.TrimSpace(pair.Value)
		}
	}
	return ""
}

// List is a property that lists values, separated by commas.
func (p *Proxy) List(name string) []string {
	var out []string
	for item := range strings.SplitSeq(p.Property(name), ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// IgnoredAddresses are the destinations that are left alone: those of the property, and the addresses of the task's and the
// instance's metadata, which ECS's agent adds (ICPT-004, ICPT-030).
func (p *Proxy) IgnoredAddresses() []string {
	out := p.List(EgressIgnoredIPs)
	for _, address := range []string{"169.254.170.2", "169.254.169.254"} {
		if !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	return out
}

// Container is a container of a task.
type Container struct {
	Name              string            `json:"name"`
	Image             string            `json:"image"`
	CPU               int               `json:"cpu"`               // units: 1024 are a processor
	Memory            int               `json:"memory"`            // MiB, the most
	MemoryReservation int               `json:"memoryReservation"` // MiB
	Essential         *bool             `json:"essential"`         // nil is true
	User              string            `json:"user"`
	EntryPoint        []string          `json:"entryPoint"`
	Command           []string          `json:"command"`
	Directory         string            `json:"workingDirectory"`
	ReadOnly          bool              `json:"readonlyRootFilesystem"`
	Privileged        bool              `json:"privileged"`
	Labels            map[string]string `json:"dockerLabels"`
	Environment       []Pair            `json:"environment"`
	Files             []struct {
		Value string `json:"value"`
	} `json:"environmentFiles"`
	Secrets []struct {
		Name string `json:"name"`
		From string `json:"valueFrom"`
	} `json:"secrets"`
	Ports        []PortMapping `json:"portMappings"`
	DependsOn    []Dependency  `json:"dependsOn"`
	HealthCheck  *HealthCheck  `json:"healthCheck"`
	StopTimeout  int           `json:"stopTimeout"` // seconds; 0 is 30
	MountPoints  []MountPoint  `json:"mountPoints"`
	LinuxOptions struct {
		Init         bool `json:"initProcessEnabled"`
		Capabilities struct {
			Add  []string `json:"add"`
			Drop []string `json:"drop"`
		} `json:"capabilities"`
	} `json:"linuxParameters"`
	Ulimits []struct {
		Name string `json:"name"`
		Soft int    `json:"softLimit"`
		Hard int    `json:"hardLimit"`
	} `json:"ulimits"`
}

// PortMapping is a port of a container; Host is 0 for the same, Protocol "" for tcp.
type PortMapping struct {
	Container int    `json:"containerPort"`
	Host      int    `json:"hostPort"`
	Protocol  string `json:"protocol"`
}

// Dependency is what a container waits for: START, COMPLETE, SUCCESS or HEALTHY.
type Dependency struct {
	Container string `json:"containerName"`
	Condition string `json:"condition"`
}

// HealthCheck is how ECS asks a container; times are seconds, 0 for ECS's defaults.
type HealthCheck struct {
	Command     []string `json:"command"`
	Interval    int      `json:"interval"`
	Timeout     int      `json:"timeout"`
	Retries     int      `json:"retries"`
	StartPeriod int      `json:"startPeriod"`
}

// MountPoint is where a container has a volume.
type MountPoint struct {
	Volume   string `json:"sourceVolume"`
	Path     string `json:"containerPath"`
	ReadOnly bool   `json:"readOnly"`
}

// Volume is a volume of a task: a path of the host, an EFS file system, or one that lives with the task.
type Volume struct {
	Name string `json:"name"`
	Host *struct {
		Path string `json:"sourcePath"`
	} `json:"host"`
	EFS *struct {
		ID string `json:"fileSystemId"`
	} `json:"efsVolumeConfiguration"`
}

// Env is a variable of a container.
func (c *Container) Env(name string) (value string, set bool) {
	for _, pair := range c.Environment {
		if pair.Name == name {
			return pair.Value, true
		}
	}
	return "", false
}

// secret says whether a variable comes from a secret.
func (c *Container) secret(name string) bool {
	for _, s := range c.Secrets {
		if s.Name == name {
			return true
		}
	}
	return false
}

// has says whether a variable is set, whatever it comes from.
func (c *Container) has(name string) bool {
	value, set := c.Env(name)
	return set && value != "" || c.secret(name)
}

// resourceVariables name the node or gateway, the one that counts first.
func resourceVariables() []string {
	return []string{"APPMESH_RESOURCE_ARN", "APPMESH_RESOURCE_NAME", "APPMESH_VIRTUAL_NODE_NAME"}
}

// Resource is the node or gateway whose proxy the container is, as its environment says it.
func (c *Container) Resource() string {
	for _, name := range resourceVariables() {
		if value, _ := c.Env(name); value != "" {
			return value
		}
	}
	return ""
}

// Envoy is the container of the proxy: the one that the proxy configuration names, or else one that names a node or gateway, or
// runs App Mesh's image. It is nil where there is none.
func (t *Task) Envoy() *Container {
	for i := range t.Containers {
		if c := &t.Containers[i]; t.Proxy != nil && c.Name == t.Proxy.Container {
			return c
		}
	}
	for i := range t.Containers {
		c := &t.Containers[i]
		if c.Resource() != "" || slices.ContainsFunc(resourceVariables(), c.secret) || appMeshImage(c.Image) {
			return c
		}
	}
	return nil
}

// appMeshImage says whether an image is App Mesh's Envoy.
func appMeshImage(image string) bool { return strings.Contains(image, "aws-appmesh-envoy") }

// Gateway says whether the proxy is that of a virtual gateway.
func (c *Container) Gateway() bool { return strings.Contains(c.Resource(), "/virtualGateway/") }

// fargate says whether the definition is for Fargate.
func (t *Task) fargate() bool { return slices.Contains(t.Requires, "FARGATE") }

// MiB is the task's memory; 0 where the text says none.
func (t *Task) MiB() int {
	text := strings.ToUpper(strings.ReplaceAll(t.Memory, " ", ""))
	if number, ok := strings.CutSuffix(text, "GB"); ok {
		gb, _ := strconv.ParseFloat(number, 64) // 0 for none
		return int(gb * 1024)
	}
	n, _ := strconv.Atoi(text) // 0 for none
	return n
}

// The drain time of agents, in seconds: its default and bounds (AGENT-013), and what stopping takes beyond it.
const (
	drainDefault = 20
	drainLeast   = 5
	drainMost    = 110
	drainBeyond  = 10
	stopDefault  = 30 // of ECS
)

// stopNeeded is how many seconds ECS must leave the proxy between SIGTERM and SIGKILL.
func (c *Container) stopNeeded() int {
	text, _ := c.Env("LISTENER_DRAIN_WAIT_TIME_S")
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < drainLeast || n > drainMost {
		n = drainDefault // as the agent takes it
	}
	return n + drainBeyond
}

// stop is how many seconds ECS leaves the container.
func (c *Container) stop() int {
	if c.StopTimeout == 0 {
		return stopDefault
	}
	return c.StopTimeout
}
