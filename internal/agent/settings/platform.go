package settings

import (
	"encoding/json"
	"net/url"
	"strings"
)

// PlatformSettings is what the environment says about the platform that the proxy runs on, and which services of it may be
// asked for the rest.
type PlatformSettings struct {
	ExecutionEnv      string // AWS_EXECUTION_ENV: the launch type of a task of ECS; "" elsewhere
	ContainerInstance string // ECS_CONTAINER_INSTANCE_ARN: the instance that the task runs on
	// TaskMetadata is the base of ECS's task metadata endpoint, version 4 or 3; "" outside a task.
	TaskMetadata string
	// InstanceMetadata is the base of EC2's instance metadata service; "" when it is not to be asked.
	InstanceMetadata string
	// InstanceNamed says that the user named InstanceMetadata: then it is asked whatever the machine looks like.
	InstanceNamed bool
	Kubernetes    *Kubernetes
	FIPS          bool // APPNET_FIPS_MODE_ENABLED

	// What ECS gives a proxy of Service Connect: its containers' addresses and its listeners' ports by name, and the
	// namespace of Cloud Map.
	ContainerAddresses, ListenerPorts map[string]any
	NamespaceName, NamespaceARN       string
}

// Kubernetes is what the injector says about the pod.
type Kubernetes struct{ Version, PodUID, ControllerVersion string }

const (
	instanceMetadata     = "http://169.254.169.254"
	instanceMetadataIPv6 = "http://[fd00:ec2::254]"
)

func (v *variables) platform() PlatformSettings {
	p := PlatformSettings{
		ExecutionEnv:       v.text("AWS_EXECUTION_ENV", ""),
		ContainerInstance:  v.text("ECS_CONTAINER_INSTANCE_ARN", ""),
		FIPS:               v.hardBool("APPNET_FIPS_MODE_ENABLED"),
		ContainerAddresses: v.mapping("APPNET_CONTAINER_IP_MAPPING"),
		ListenerPorts:      v.mapping("APPNET_LISTENER_PORT_MAPPING"),
		NamespaceName:      v.text("NAMESPACE_NAME", ""),
		NamespaceARN:       v.text("NAMESPACE_ARN", ""),
	}
	if p.ExecutionEnv != "" {
		p.TaskMetadata = v.softURL("ECS_CONTAINER_METADATA_URI_V4", v.softURL("ECS_CONTAINER_METADATA_URI", ""))
	}
	if !v.softBool("AWS_EC2_METADATA_DISABLED", false) {
		p.InstanceMetadata = instanceMetadata
		if v.softChoice("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv4", "ipv4", "ipv6") == "ipv6" {
			p.InstanceMetadata = instanceMetadataIPv6
		}
		if named := v.softURL("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""); named != "" {
			p.InstanceMetadata, p.InstanceNamed = named, true
		}
	}
	k := Kubernetes{v.text("APPMESH_PLATFORM_K8S_VERSION", ""), v.text("APPMESH_PLATFORM_K8S_POD_UID", ""), v.text("APPMESH_PLATFORM_APP_MESH_CONTROLLER_VERSION", "")}
	if k.Version != "" && k.PodUID != "" && k.ControllerVersion != "" {
		p.Kubernetes = &k
	}
	return p
}

// softURL is the base of an HTTP service, without a slash at its end.
func (v *variables) softURL(name, fallback string) string {
	s := strings.TrimRight(v.text(name, ""), "/")
	if s == "" {
		return fallback
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		v.warn("%s is no address of an HTTP service and is left out", name)
		return fallback
	}
	return s
}

// mapping is a JSON object. One that is none is left out, as App Mesh's agent did.
func (v *variables) mapping(name string) map[string]any {
	s := v.text(name, "")
	if s == "" {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		v.warn("%s is no JSON object and is left out", name)
	}
	return m
}

// ownService is App Mesh's own endpoint, which is taken when none is named.
type ownService struct{ preview, dualStack bool }

// endpoint names it in a region for a build of Envoy. The government's regions took builds with FIPS only, under the
// ordinary name; elsewhere such a build has a name of its own.
func (o ownService) endpoint(region string, fips bool) (string, error) {
	government, isolated := strings.HasPrefix(region, "us-gov-"), strings.HasPrefix(region, "us-iso")
	if !fips && (government || isolated) {
		return "", Wrong("APPMESH_XDS_ENDPOINT", "is not set, and App Mesh's own endpoint in %s takes FIPS builds of Envoy only: this one is none", region)
	}
	return awsEndpoint(region, o.preview, o.dualStack, fips && !government), nil
}

// OwnService says that no endpoint is named: then App Mesh's own is taken, whose name depends on the region and on
// whether Envoy is a FIPS build.
func (s Settings) OwnService() bool { return s.ownService != nil }

// Located completes the settings with what only the machine knows: region, used where AWS_REGION and the resource's ARN
// name none, and whether its Envoy is a FIPS build. An error is a *ConfigError.
func (s Settings) Located(region string, fips bool) (Settings, error) {
	if s.Region == "" {
		s.Region = region
	}
	if s.ownService == nil {
		return s, nil
	}
	if s.Region == "" {
		return s, noEndpoint()
	}
	list, err := s.ownService.endpoint(s.Region, fips)
	if err != nil {
		return s, err
	}
	if s.Endpoints, err = parseEndpoints(list); err != nil {
		return s, Wrong("AWS_REGION", "%v", err)
	}
	return s, nil
}

func noEndpoint() error {
	return Wrong("APPMESH_XDS_ENDPOINT", "must name the control plane's xDS endpoint, such as evermesh.example:7071")
}

// formerly are variables of App Mesh's images that no Envoy of today has a use for.
var formerly = []struct{ name, why string }{
	{"APPMESH_SET_TRACING_DECISION", "Envoy lost this switch"},
	{"ENVOY_NO_EXTENSION_LOOKUP_BY_NAME", "Envoy lost this switch"},
	{"ENVOY_USE_HTTP_CLIENT_TO_FETCH_AWS_CREDENTIALS", "the agent signs, not Envoy"},
	{"ENVOY_ENABLE_TCP_POOL_IDLE_TIMEOUT", "Envoy lost this switch"},
	{"ENVOY_SANITIZE_ORIGINAL_PATH", "Envoy lost this switch"},
	{"ENVOY_ACTIVE_HEALTH_CHECK_UNEJECT_HOST", "Envoy lost this switch"},
	{"APPMESH_FIPS_ENDPOINT", "envoy --version tells it"},
	{"APPMESH_VERBOSE", "ENVOY_LOG_LEVEL=debug is for that"},
	{"APPMESH_SLEEP_DURATION", "the agent waits for what it needs"},
	{"ENVOY_MAX_OBJ_NAME", "Envoy has no such limit any more"},
}

// former says once which of them are set.
func (v *variables) former() {
	var set []string
	for _, f := range formerly {
		if v.has(f.name) {
			set = append(set, f.name+" ("+f.why+")")
		}
	}
	if len(set) > 0 {
		v.warn("set and without effect: %s", strings.Join(set, ", "))
	}
}
