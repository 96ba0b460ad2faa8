package settings

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

func TestPlatform(t *testing.T) {
	parse := func(t *testing.T, lines ...string) Settings {
		t.Helper()
		s, err := Parse(agenttest.Environment(append([]string{someResource, someEndpoint}, lines...)...), Flags{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, test := range []struct {
		name string
		env  []string
		want PlatformSettings
		warn string
	}{
		{"the instance's service by default", nil, PlatformSettings{InstanceMetadata: "http://169.254.169.254"}, ""},
		{"its other family", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=IPv6"}, PlatformSettings{InstanceMetadata: "http://[fd00:ec2::254]"}, ""},
		{
			"one that the user named",
			[]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338/", "AWS_EC2_METADATA_DISABLED=false"},
			PlatformSettings{InstanceMetadata: "http://127.0.0.1:1338", InstanceNamed: true},
			"",
		},
		{"none", []string{"AWS_EC2_METADATA_DISABLED=TRUE", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1"}, PlatformSettings{}, ""},
		{"what is no address is left out", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=169.254.169.254"}, PlatformSettings{InstanceMetadata: "http://169.254.169.254"}, "AWS_EC2_METADATA_SERVICE_ENDPOINT is no address"},
		{
			"a task, by the newer version of its endpoint",
			[]string{
				"AWS_EC2_METADATA_DISABLED=true", "AWS_EXECUTION_ENV=AWS_ECS_EC2", "ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/c",
				"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/c", "ECS_CONTAINER_INSTANCE_ARN=arn:i",
			},
			PlatformSettings{ExecutionEnv: "AWS_ECS_EC2", ContainerInstance: "arn:i", TaskMetadata: "http://169.254.170.2/v4/c"},
			"",
		},
		{
			"a task, by the older version",
			[]string{"AWS_EC2_METADATA_DISABLED=true", "AWS_EXECUTION_ENV=AWS_ECS_FARGATE", "ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/c"},
			PlatformSettings{ExecutionEnv: "AWS_ECS_FARGATE", TaskMetadata: "http://169.254.170.2/v3/c"},
			"",
		},
		{"no task without its launch type", []string{"AWS_EC2_METADATA_DISABLED=true", "ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/c"}, PlatformSettings{}, ""},
		{
			"a pod that says only half of it is none",
			[]string{"AWS_EC2_METADATA_DISABLED=true", "APPMESH_PLATFORM_K8S_VERSION=v1.31.0", "APPMESH_PLATFORM_K8S_POD_UID=u"},
			PlatformSettings{},
			"",
		},
		{
			"mappings of Service Connect, of which one is no JSON",
			[]string{"AWS_EC2_METADATA_DISABLED=true", `APPNET_CONTAINER_IP_MAPPING={"a":"10.0.0.1"}`, "APPNET_LISTENER_PORT_MAPPING=15000", "NAMESPACE_NAME=n"},
			PlatformSettings{ContainerAddresses: map[string]any{"a": "10.0.0.1"}, NamespaceName: "n"},
			"APPNET_LISTENER_PORT_MAPPING is no JSON object",
		},
		{"FIPS", []string{"AWS_EC2_METADATA_DISABLED=true", "APPNET_FIPS_MODE_ENABLED=1"}, PlatformSettings{FIPS: true}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := parse(t, test.env...)
			if diff := cmp.Diff(test.want, s.Platform); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if warned := strings.Join(s.Warnings, "\n"); test.warn == "" && warned != "" || !strings.Contains(warned, test.warn) {
				t.Errorf("warnings %q, want %q", warned, test.warn)
			}
		})
	}
	t.Run("what older images took is said once", func(t *testing.T) {
		s := parse(t, "APPMESH_VERBOSE=1", "APPMESH_SET_TRACING_DECISION=true", "ENVOY_MAX_OBJ_NAME=500")
		if len(s.Warnings) != 1 {
			t.Fatalf("got %q", s.Warnings)
		}
		for _, name := range []string{"APPMESH_VERBOSE (", "APPMESH_SET_TRACING_DECISION (", "ENVOY_MAX_OBJ_NAME ("} {
			if !strings.Contains(s.Warnings[0], name) {
				t.Errorf("%q does not name %s", s.Warnings[0], name)
			}
		}
	})
}

func TestLocated(t *testing.T) {
	located := func(t *testing.T, region string, fips bool, lines ...string) (Settings, error) {
		t.Helper()
		s, err := Parse(agenttest.Environment(append([]string{someResource}, lines...)...), Flags{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return s.Located(region, fips)
	}
	t.Run("AGENT-030 IMG-001 App Mesh's own endpoint when none is set", func(t *testing.T) {
		for _, test := range []struct {
			env, region string
			fips        bool
			want        string
		}{
			{"AWS_REGION=us-west-2", "", false, "appmesh-envoy-management.us-west-2.amazonaws.com:443"},
			{"AWS_REGION=us-west-2", "eu-west-1", false, "appmesh-envoy-management.us-west-2.amazonaws.com:443"},
			{"", "eu-west-1", false, "appmesh-envoy-management.eu-west-1.amazonaws.com:443"},
			{"APPMESH_DUALSTACK_ENDPOINT=1", "us-west-2", false, "appmesh-envoy-management.us-west-2.api.aws:443"},
			{"APPMESH_DUALSTACK_ENDPOINT=1 APPMESH_PREVIEW=true", "cn-north-1", false, "appmesh-preview-envoy-management.cn-north-1.api.amazonwebservices.com.cn:443"},
			{"", "cn-north-1", false, "appmesh-envoy-management.cn-north-1.amazonaws.com.cn:443"},
			{"", "us-west-2", true, "appmesh-envoy-management-fips.us-west-2.amazonaws.com:443"},
			{"APPMESH_PREVIEW=1", "ca-central-1", true, "appmesh-preview-envoy-management-fips.ca-central-1.amazonaws.com:443"},
			{"", "us-gov-west-1", true, "appmesh-envoy-management.us-gov-west-1.amazonaws.com:443"},
		} {
			s, err := located(t, test.region, test.fips, strings.Fields(test.env)...)
			if err != nil || len(s.Endpoints) != 1 || s.Endpoints[0].Address != test.want || !s.OwnService() {
				t.Errorf("%+v: got %v, %v", test, s.Endpoints, err)
			}
		}
	})
	for name, region := range map[string]string{"a government's region": "us-gov-east-1", "an isolated one": "us-iso-east-1"} {
		t.Run("IMG-001 "+name+" takes FIPS builds only", func(t *testing.T) {
			if _, err := located(t, region, false); err == nil || !strings.Contains(err.Error(), "APPMESH_XDS_ENDPOINT: is not set") || !strings.Contains(err.Error(), "FIPS builds") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("no region to be had", func(t *testing.T) {
		if _, err := located(t, "", false); err == nil || !strings.Contains(err.Error(), "must name the control plane") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("AGENT-036 an endpoint that is named stays, and the machine's region signs", func(t *testing.T) {
		s, err := located(t, "eu-west-1", true, someEndpoint)
		if err != nil || s.Region != "eu-west-1" || s.Endpoints[0].Address != "control.example:7071" || s.OwnService() {
			t.Errorf("got %s, %v, %v", s.Region, s.Endpoints, err)
		}
		if s, _ := located(t, "eu-west-1", false, someEndpoint, "AWS_REGION=us-east-1"); s.Region != "us-east-1" {
			t.Errorf("got %s", s.Region)
		}
	})
}

func TestAdminPort(t *testing.T) {
	for env, want := range map[string]string{
		"ENVOY_ADMIN_ACCESS_PORT=9902 APPNET_AGENT_ADMIN_MODE=tcp":                                                        "9902 is the port of the agent's own interface too",
		"ENVOY_ADMIN_ACCESS_PORT=8000 APPNET_AGENT_ADMIN_MODE=tcp APPNET_AGENT_HTTP_PORT=8000":                            "8000 is the port of the agent's own interface too",
		"ENVOY_ADMIN_ACCESS_PORT=15000":                                                                                   "15000 is where Envoy takes redirected traffic",
		"ENVOY_ADMIN_ACCESS_PORT=15001":                                                                                   "15001 is where Envoy takes redirected traffic",
		"ENVOY_ADMIN_ACCESS_PORT=9902 APPNET_AGENT_ADMIN_MODE=uds":                                                        "",
		"ENVOY_ADMIN_ACCESS_PORT=9902 APPNET_AGENT_ADMIN_MODE=tcp ENVOY_ADMIN_MODE=uds":                                   "",
		"ENVOY_ADMIN_ACCESS_PORT=15001 EVERMESH_INTERCEPTION=none":                                                        "",
		"ENVOY_ADMIN_ACCESS_PORT=15001 APPMESH_RESOURCE_NAME=mesh/m/virtualGateway/g APPMESH_RESOURCE_ARN= ENVOY_PATH=/e": "",
	} {
		t.Run("AGENT-008 "+env, func(t *testing.T) {
			_, err := Parse(agenttest.Environment(append([]string{someResource, someEndpoint}, strings.Fields(env)...)...), Flags{}, 0)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "ENVOY_ADMIN_ACCESS_PORT: "+want)) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}
