// Package settings is what the environment and the flags ask of the agent: [Parse] reads every variable of App Mesh's
// agent and Evermesh's own once, and names each that is wrong. Beside [Settings] there is a file for each part: who the
// proxy belongs to (resource.go), where the control plane is (endpoint.go), how the agent proves who it is (proof.go),
// what shapes Envoy's bootstrap (bootstrap.go, telemetry.go), and what is known and may be asked about the platform (platform.go).
package settings

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Settings are what the environment and the flags ask for. Parse makes them.
type Settings struct {
	Resource     Resource // zero when ConfigFile is the user's own bootstrap
	Bootstrap    BootstrapSettings
	Interception Interception
	Platform     PlatformSettings
	Reports      Reports

	// xDS.
	Endpoints      []Endpoint // none in Service Connect mode
	ServiceConnect string     // the socket that Envoy itself connects to, instead of the relay's
	RelayOnly      bool       // serve the streams of other Envoys, and run none
	RelayBounds    RelayBounds
	CAFile         string // PEM; "" for the system's
	Proof          Proof
	LastGood       LastGood
	SocketPath     string      // of the relay; "" for one in a new directory
	Region         string      // for signing
	SigningName    string      // appmesh
	ownService     *ownService // nil when an endpoint is named
	Mark           uint32      // SO_MARK of the agent's and Envoy's sockets; 0 for none

	// Envoy.
	EnvoyPath      string // "" for PATH
	ConfigFile     string // "" for a new temporary file
	LogLevel       string // of Envoy and the agent
	Concurrency    int    // -1 leaves it to Envoy
	HotRestart     bool
	KeepDeprecated bool          // log deprecated fields
	DrainTime      time.Duration // --drain-time-s, and the wait after SIGTERM
	Restarts       int           // how often Envoy is started again
	Supervision    Supervision

	// The agent's own HTTP server; Network "" for none.
	Server Server

	HealthInterval    time.Duration
	DisconnectedLimit time.Duration // how long a lost xDS connection counts as healthy
	LoggingReset      time.Duration // after /enableLogging
	ReadinessInterval time.Duration // of -envoyReadiness; 0 asks once
	ReadinessTimeout  time.Duration
	Warnings          []string // to be logged once
	Admin             Admin
}

// Server says where the agent's HTTP server listens.
type Server struct {
	Network string // tcp, unix, or "" for no server
	Address string
}

// Port is the TCP port of the server; 0 for none.
func (s Server) Port() int {
	if s.Network != "tcp" {
		return 0
	}
	_, port, _ := net.SplitHostPort(s.Address)
	n, _ := strconv.Atoi(port)
	return n
}

// Admin is where Envoy's administration interface listens, as far as that matters to who asks it from this host.
type Admin struct {
	Socket  string // path, of the uds mode or of a user's file; "" for the port
	Address string // that it is asked at; "" is 127.0.0.1
	Port    int
	Given   bool // by a file of the user, and not by ENVOY_ADMIN_MODE and ENVOY_ADMIN_ACCESS_PORT
}

// adminSocket is the fixed place of Envoy's administration interface in the uds mode.
const adminSocket = "/tmp/envoy_admin.sock"

// Flags are the agent's command line flags; an empty string is a flag that was not given.
type Flags struct {
	ConfigFile string // -envoyConfigPath
	LogLevel   string // -logLevel
}

// Parse reads the environment through getenv (os.Getenv in the program). uid is the user that the agent runs as.
// An error is a *ConfigError.
func Parse(getenv func(string) string, flags Flags, uid int) (Settings, error) {
	v := &variables{getenv: getenv}
	s := Settings{}
	s.ConfigFile = v.text("ENVOY_CONFIG_FILE", "")
	if flags.ConfigFile != "" {
		s.ConfigFile = flags.ConfigFile
	}
	s.LogLevel = v.logLevel(flags.LogLevel)
	s.envoy(v)
	s.Supervision = v.supervision()
	s.health(v)
	s.server(v, uid)
	s.relayMode(v)
	s.resource(v)
	s.Platform = v.platform()
	s.xds(v)
	s.Bootstrap = v.bootstrap()
	s.Interception = v.interception()
	s.adminPort(v)
	s.Reports = v.reports()
	v.former()
	s.Warnings = v.warnings
	return s, v.err
}

// GeneratedMark begins every generated bootstrap.
const GeneratedMark = "# Written by evermesh-agent.\n"

// OwnBootstrap says that the user wrote the bootstrap: then it is used as it is. One that an earlier run of the agent
// wrote is written anew.
func (s Settings) OwnBootstrap() bool {
	if s.ConfigFile == "" {
		return false
	}
	text, err := os.ReadFile(s.ConfigFile)
	return err == nil && len(text) > 0 && !bytes.HasPrefix(text, []byte(GeneratedMark))
}

func (v *variables) logLevel(flag string) string {
	name, level := "-logLevel", flag
	if flag == "" {
		name, level = "ENVOY_LOG_LEVEL", v.text("ENVOY_LOG_LEVEL", "info")
	}
	switch level = strings.ToLower(level); level {
	case "trace", "debug", "info", "warn", "warning", "error", "critical", "off":
		return level
	}
	v.warn("%s=%q is no log level: info is used", name, level)
	return "info"
}

func (s *Settings) envoy(v *variables) {
	s.EnvoyPath = v.text("ENVOY_PATH", "")
	s.Concurrency = v.softInt("ENVOY_CONCURRENCY", -1, 0, 1<<16)
	s.HotRestart = !v.softBool("DISABLE_HOT_RESTART", true)
	s.KeepDeprecated = !v.softBool("ENVOY_SKIP_DEPRECATED_LOGS", true)
	s.DrainTime = v.softSeconds("LISTENER_DRAIN_WAIT_TIME_S", 20*time.Second, 5*time.Second, 110*time.Second)
	s.Restarts = 3
	if n, err := strconv.Atoi(v.text("APPNET_ENVOY_RESTART_COUNT", "3")); err == nil && n >= 0 {
		s.Restarts = min(n, 10)
	}
	s.Admin.Port = v.hardPort("ENVOY_ADMIN_ACCESS_PORT", 9901)
	if v.softChoice("ENVOY_ADMIN_MODE", "tcp", "tcp", "uds") == "uds" {
		s.Admin.Socket = adminSocket
	}
}

func (s *Settings) health(v *variables) {
	s.ReadinessInterval = v.softSeconds("APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S", 5*time.Second, 0, 24*time.Hour)
	s.ReadinessTimeout = v.softSeconds("APPNET_AGENT_POLL_ENVOY_READINESS_TIMEOUT_S", 180*time.Second, 0, 24*time.Hour)
	s.HealthInterval = 10 * time.Second
	if v.has("APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S") && 2*time.Second <= s.ReadinessInterval && s.ReadinessInterval <= 30*time.Second {
		s.HealthInterval = s.ReadinessInterval
	}
	s.HealthInterval = v.softMillis("HC_POLL_INTERVAL_MS", s.HealthInterval, 2*time.Second, 30*time.Second)
	week := 7 * 24 * time.Hour
	s.DisconnectedLimit = v.softSeconds("HC_DISCONNECTED_TIMEOUT_S", week, time.Hour, week)
	s.LoggingReset = v.softSeconds("APPNET_AGENT_LOGGING_RESET_TIMEOUT", 300*time.Second, time.Second, 24*time.Hour)
}

func (s *Settings) server(v *variables, uid int) {
	if !v.has("APPNET_AGENT_ADMIN_MODE") {
		return
	}
	if v.softChoice("APPNET_AGENT_ADMIN_MODE", "tcp", "tcp", "uds") == "uds" {
		s.Server = Server{Network: "unix", Address: v.text("APPNET_AGENT_ADMIN_UDS_PATH", "/var/run/ecs/appnet_admin.sock")}
		return
	}
	low := 1024
	if uid == 0 {
		low = 1
	}
	port := v.softInt("APPNET_AGENT_HTTP_PORT", 9902, low, 65535)
	s.Server = Server{Network: "tcp", Address: v.text("APPNET_AGENT_HTTP_BIND_ADDRESS", "[::]") + ":" + strconv.Itoa(port)}
}

// resource finds out whose proxy this is (AGENT-002 to AGENT-004).
func (s *Settings) resource(v *variables) {
	for _, name := range []string{"APPMESH_RESOURCE_ARN", "APPMESH_RESOURCE_NAME", "APPMESH_VIRTUAL_NODE_NAME"} {
		id := v.text(name, "")
		if id == "" {
			continue
		}
		if name != "APPMESH_RESOURCE_ARN" {
			v.warn("%s is deprecated: use APPMESH_RESOURCE_ARN", name)
		}
		var err error
		if s.Resource, err = parseResource(id); err != nil {
			v.fail(name, "%v", err)
		}
		s.Resource.Cluster = v.text("APPMESH_RESOURCE_CLUSTER", v.text("APPMESH_VIRTUAL_NODE_CLUSTER", s.Resource.ID))
		return
	}
	if !s.OwnBootstrap() && !s.RelayOnly {
		v.fail("APPMESH_RESOURCE_ARN", "must name the virtual node or virtual gateway that this proxy belongs to, such as mesh/shop/virtualNode/orders")
	}
}

func (s *Settings) xds(v *variables) {
	s.SocketPath = v.text("APPNET_RELAY_LISTENER_UDS_PATH", "")
	v.socketPath("APPNET_RELAY_LISTENER_UDS_PATH", s.SocketPath)
	s.CAFile = v.text("APPMESH_XDS_CA_FILE", "")
	s.proof(v)
	s.LastGood = v.lastGood()
	s.Region = v.text("AWS_REGION", s.Resource.Region)
	preview := v.hardBool("APPMESH_PREVIEW")
	s.SigningName = "appmesh"
	if preview {
		s.SigningName = "appmesh-preview"
	}
	s.SigningName = v.text("APPMESH_SIGNING_NAME", s.SigningName)
	if mark := v.text("EVERMESH_IGNORE_MARK", ""); mark != "" {
		n, err := strconv.ParseUint(mark, 0, 32)
		if err != nil || n == 0 {
			v.fail("EVERMESH_IGNORE_MARK", "%q is not a mark from 1 to 0xffffffff, such as 0x539", mark)
		}
		s.Mark = uint32(n)
	}
	dualStack := v.hardBool("APPMESH_DUALSTACK_ENDPOINT")
	list := v.text("APPMESH_XDS_ENDPOINT", "")
	if s.RelayOnly {
		list = s.management(v)
		if s.SocketPath == "" {
			s.SocketPath = defaultRelaySocket
		}
	}
	if path, ok := strings.CutPrefix(list, serviceConnectScheme); ok && !strings.Contains(list, ",") && !s.RelayOnly {
		s.ServiceConnect = path
		v.socketPath("APPMESH_XDS_ENDPOINT", path)
		return
	}
	if list == "" && s.RelayOnly {
		v.fail("APPMESH_XDS_ENDPOINT", "must name the control plane to relay to, such as evermesh.example:7071")
		return
	}
	if list == "" {
		s.ownService = &ownService{preview, dualStack}
		if s.Region == "" && s.Platform.InstanceMetadata == "" && s.Platform.TaskMetadata == "" && v.err == nil {
			v.err = noEndpoint()
		}
		return
	}
	var err error
	if s.Endpoints, err = parseEndpoints(list); err != nil {
		v.fail("APPMESH_XDS_ENDPOINT", "%v", err)
	}
	s.ofThePod(v)
}
