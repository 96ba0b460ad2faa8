package internal

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// appMeshVariables are those that App Mesh's images read: its agent's, which its bootstrap and its relay mode share, and its
// route manager's.
const appMeshVariables = `
ENVOY_CONFIG_FILE ENVOY_LOG_LEVEL ENVOY_ADMIN_ACCESS_PORT ENVOY_ADMIN_MODE ENVOY_CONCURRENCY DISABLE_HOT_RESTART
ENVOY_SKIP_DEPRECATED_LOGS LISTENER_DRAIN_WAIT_TIME_S APPNET_ENVOY_RESTART_COUNT PID_POLL_INTERVAL_MS HC_POLL_INTERVAL_MS
HC_DISCONNECTED_TIMEOUT_S APPNET_AGENT_ADMIN_MODE APPNET_AGENT_HTTP_PORT APPNET_AGENT_HTTP_BIND_ADDRESS
APPNET_AGENT_ADMIN_UDS_PATH APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S APPNET_AGENT_POLL_ENVOY_READINESS_TIMEOUT_S
ENABLE_STATS_SNAPSHOT APPNET_AGENT_LOGGING_RESET_TIMEOUT APPNET_ENVOY_LOG_DESTINATION APPNET_ENVOY_LOG_NAME
APPNET_AGENT_MAX_LOG_FILE_SIZE APPNET_AGENT_MAX_RETENTION_COUNT APPNET_ENABLE_RELAY_MODE_FOR_XDS APPNET_RELAY_LISTENER_UDS_PATH
APPNET_MANAGEMENT_DOMAIN_NAME APPNET_MANAGEMENT_PORT RELAY_STREAM_IDLE_TIMEOUT RELAY_BUFFER_LIMIT_BYTES
ENVOY_USE_HTTP_CLIENT_TO_FETCH_AWS_CREDENTIALS TLS_CURVE
APPMESH_RESOURCE_ARN APPMESH_RESOURCE_CLUSTER APPMESH_RESOURCE_NAME APPMESH_VIRTUAL_NODE_NAME APPMESH_VIRTUAL_NODE_CLUSTER
APPMESH_XDS_ENDPOINT APPMESH_SIGNING_NAME APPMESH_PREVIEW APPMESH_DUALSTACK_ENDPOINT APPMESH_SET_TRACING_DECISION
APPMESH_SDS_SOCKET_PATH APPMESH_METRIC_EXTENSION_VERSION APPMESH_PLATFORM_K8S_VERSION APPMESH_PLATFORM_K8S_POD_UID
APPMESH_PLATFORM_APP_MESH_CONTROLLER_VERSION AWS_REGION AWS_EXECUTION_ENV ECS_CONTAINER_METADATA_URI ECS_CONTAINER_METADATA_URI_V4
ECS_CONTAINER_INSTANCE_ARN ENVOY_INITIAL_FETCH_TIMEOUT ENVOY_ADMIN_ACCESS_LOG_FILE ENVOY_ADMIN_ACCESS_ENABLE_IPV6
ENVOY_NO_EXTENSION_LOOKUP_BY_NAME ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH MAX_REQUESTS_PER_IO_CYCLE ENVOY_STATS_FLUSH_INTERVAL
ENVOY_STATS_CONFIG_FILE ENVOY_STATS_SINKS_CFG_FILE ENVOY_TRACING_CFG_FILE ENVOY_RESOURCES_CONFIG_FILE ENABLE_ENVOY_STATS_TAGS
ENABLE_ENVOY_DOG_STATSD STATSD_ADDRESS STATSD_PORT STATSD_SOCKET_PATH ENABLE_ENVOY_XRAY_TRACING XRAY_DAEMON_PORT
AWS_XRAY_DAEMON_ADDRESS XRAY_SAMPLING_RATE XRAY_SAMPLING_RULE_MANIFEST XRAY_SEGMENT_NAME ENABLE_ENVOY_DATADOG_TRACING
DATADOG_TRACER_ADDRESS DATADOG_TRACER_PORT DD_SERVICE ENABLE_ENVOY_JAEGER_TRACING JAEGER_TRACER_ADDRESS JAEGER_TRACER_PORT
JAEGER_TRACER_VERSION APPNET_FIPS_MODE_ENABLED APPNET_CONTAINER_IP_MAPPING APPNET_LISTENER_PORT_MAPPING NAMESPACE_NAME NAMESPACE_ARN
APPMESH_START_ENABLED APPMESH_ENABLE_IPV6 APPMESH_IGNORE_UID APPMESH_IGNORE_GID APPMESH_ENVOY_EGRESS_PORT
APPMESH_ENVOY_INGRESS_PORT APPMESH_APP_PORTS APPMESH_EGRESS_IGNORED_IP APPMESH_EGRESS_IGNORED_PORTS`

// parityVerdicts begin the cell that says what becomes of a row here.
var parityVerdicts = []string{"same", "more", "differs", "without effect", "left out", "new"}

var (
	ticked   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^Test[A-Za-z0-9_]+(/.+)?$`)
)

// repositoryTests are the tests of each folder, the texts in them, and their cases.
type repositoryTests struct {
	folders      map[string]*testFolder
	texts, cases map[string]string // by folder
}

func findTests(t *testing.T) repositoryTests {
	t.Helper()
	found := repositoryTests{map[string]*testFolder{}, map[string]string{}, map[string]string{}}
	of := func(folder string) *testFolder {
		if found.folders[folder] == nil {
			found.folders[folder] = newTestFolder()
		}
		return found.folders[folder]
	}
	for _, name := range repositoryFiles(t, func(name string) bool {
		return strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".txtar") && filepath.Base(filepath.Dir(name)) == "testdata"
	}) {
		folder := filepath.Dir(name)
		if strings.HasSuffix(name, ".txtar") {
			text := readFile(t, name)
			folder = filepath.Dir(folder)
			of(folder).cases["testdata/"+filepath.Base(name)], _, _ = strings.Cut(text, "\n")
			found.cases[folder] += text
			continue
		}
		_, f := parse(t, name)
		of(folder).add(f)
		var said strings.Builder
		ast.Inspect(f, func(n ast.Node) bool {
			if text, ok := quoted(n); ok {
				said.WriteString(text + "\n")
			}
			return true
		})
		found.texts[folder] += said.String()
	}
	return found
}

// has says whether such a test is there: TestX, TestX/part, or TestX/part/part of that. What parts lie in may have a name
// that cannot be told from the code.
func (r repositoryTests) has(folder, name string) bool {
	function, part, parts := strings.Cut(name, "/")
	d := r.folders[folder]
	if d == nil || d.functions[function] == nil {
		return false
	}
	if !parts {
		return true
	}
	names := d.subtests(function)
	for more := true; more; _, part, more = strings.Cut(part, "/") {
		if slices.ContainsFunc(names, func(name *regexp.Regexp) bool { return name.MatchString(part) }) {
			return true
		}
	}
	return false
}

// TestParityNamesParts wants names of parts that the named test has: those of another one, and other texts, are none.
func TestParityNamesParts(t *testing.T) {
	found := findTests(t)
	for _, test := range []struct {
		folder, name string
		want         bool
	}{
		{"internal/agent", "TestRestarts", true},
		{"internal/agent", "TestNoSuchTest", false},
		{"internal/no/such/folder", "TestRestarts", false},
		// Of a table.
		{"internal/agent", "TestRestarts/AGENT-011 none when 0 is asked for", true},
		{"internal/agent", "TestStatusOfARunningAgent/AGENT-011 none when 0 is asked for", false},
		{"internal/agent", "TestRestarts/APPNET_ENVOY_RESTART_COUNT=0", false},
		// Said where it runs, alone and with what the table says.
		{"internal/agent", "TestStatusOfARunningAgent/AGENT-037 health and restarts", true},
		{"internal/agent", "TestStatusOfARunningAgent/", false},
		{"internal/agent", "TestPorts/AGENT-008 no listener on the port of the administration interface", true},
		{"internal/agent", "TestPorts/no listener", false},
		{"cmd/evermesh-agent", "TestPreflight/TRBL-002 preflight where nobody is", true},
		{"cmd/evermesh-agent", "TestPreflight/TRBL-002 preflight where somebody is", false},
		// Of a field that is not called name, and of the keys of a map.
		{"internal/agent/settings", "TestBounds/HC_POLL_INTERVAL_MS", true},
		{"internal/agent/settings", "TestBounds/2000 2s", false},
		{"internal/agent/settings", "TestRelayMode/a port that is none", true},
		// In a function that the test calls, and given to one that it makes.
		{"internal/intercept", "TestKernel/nft/ICPT-004 nor those to ignored addresses", true},
		{"internal/intercept", "TestKernelDNS/nft/ICPT-004 nor those to ignored addresses", false},
		{"internal/agent/bootstrap", "TestReceivers/OpenTelemetry gets metrics and spans", true},
		// The first line of a case.
		{"internal/agent/bootstrap", "TestBootstrap/AGENT-024 Jaeger", true},
		{"internal/agent/bootstrap", "TestReceivers/AGENT-024 Jaeger", false},
		{"internal/agent/bootstrap", "TestBootstrap/AGENT-024", false},
	} {
		if got := found.has(test.folder, test.name); got != test.want {
			t.Errorf("%s in %s: found %t", test.name, test.folder, got)
		}
	}
}

// says whether a text is in a test of the folder, or in one of its cases, as a word.
func (r repositoryTests) says(folder, text string) bool {
	word := regexp.MustCompile(`(^|[^A-Z0-9_])` + text + `($|[^A-Z0-9_])`)
	return word.MatchString(r.texts[folder]) || word.MatchString(r.cases[folder])
}

// TestAgentParity holds docs/agent-parity.md against the code: every variable of App Mesh's images and every one that the
// agent and the interception read has its row, every row says what becomes of it here, and the tests that it names exist.
func TestAgentParity(t *testing.T) {
	found, read := findTests(t), agentVariables(t)
	listed := map[string]string{} // variable: what becomes of it
	rows := 0
	for _, line := range strings.Split(readFile(t, "docs/agent-parity.md"), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| App Mesh ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 3 {
			t.Errorf("%s: has %d cells, want what it is, what becomes of it here, and what shows that", cells[0], len(cells))
			continue
		}
		rows++
		if !slices.ContainsFunc(parityVerdicts, func(v string) bool { return strings.HasPrefix(cells[1], v) }) {
			t.Errorf("%s: %q does not begin with one of %s", cells[0], cells[1], strings.Join(parityVerdicts, ", "))
		}
		var variables []string
		for _, m := range ticked.FindAllStringSubmatch(cells[0]+cells[1], -1) {
			if variable.MatchString(m[1]) {
				listed[m[1]] = cells[1]
				variables = append(variables, m[1])
			}
		}
		folder, shown := "", 0
		var folders []string
		for _, m := range ticked.FindAllStringSubmatch(cells[2], -1) {
			switch {
			case testName.MatchString(m[1]):
				shown++
				if !found.has(folder, m[1]) {
					t.Errorf("%s: there is no %s in %s", cells[0], m[1], folder)
				}
			default:
				folder = m[1]
				folders = append(folders, folder)
				if _, err := os.Stat(filepath.Join(root, folder)); err != nil {
					t.Errorf("%s: there is no %s", cells[0], folder)
				}
			}
		}
		if strings.HasPrefix(cells[1], "left out") || strings.HasPrefix(cells[1], "without effect") {
			continue
		}
		if shown == 0 {
			t.Errorf("%s: no test shows it", cells[0])
		}
		for _, name := range variables {
			if !slices.ContainsFunc(folders, func(folder string) bool { return found.says(folder, name) }) {
				t.Errorf("%s: nobody sets %s in %s", cells[0], name, strings.Join(folders, ", "))
			}
		}
	}
	if rows == 0 {
		t.Fatal("found no row")
	}
	for _, name := range strings.Fields(appMeshVariables) {
		if listed[name] == "" {
			t.Errorf("docs/agent-parity.md has no row for App Mesh's %s", name)
		}
	}
	for name, file := range read {
		verdict, ok := listed[name]
		switch {
		case !ok:
			t.Errorf("%s reads %s, for which docs/agent-parity.md has no row", file, name)
		case strings.HasPrefix(verdict, "left out"):
			t.Errorf("%s reads %s, which docs/agent-parity.md says is left out", file, name)
		}
	}
	for name, verdict := range listed {
		unread := strings.HasPrefix(verdict, "left out") || strings.HasPrefix(verdict, "without effect") || slices.Contains(elsewhere, name)
		if read[name] == "" && !unread {
			t.Errorf("docs/agent-parity.md lists %s, which nothing reads", name)
		}
	}
}

// elsewhere are variables that libraries read.
var elsewhere = []string{
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
	"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED",
}
