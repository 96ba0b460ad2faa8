package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/discovery/cloudmap"
	"github.com/evermesh/evermesh/internal/document"
	"github.com/evermesh/evermesh/internal/forward"
)

// config is the effective configuration. The flag set is its schema: a setting
// comes from its flag, else from EVERMESH_<NAME>, else from the file's key of
// the flag's name.
type config struct {
	APIListen, XDSListen, AdminListen string
	DataDir                           string
	EtcdEndpoints                     []string
	EtcdCACert, EtcdCert, EtcdKey     string
	EtcdPrefix                        string
	MasterKeyFile                     string
	Partition, Region, Account        string
	CloudMapRegion, CloudMapEndpoint  string
	CloudMapPoll                      time.Duration
	DNSListen, DNSForward             string
	DNSVirtualServices                string
	DNSVirtualServicesAddress         []string
	DNSRate                           float64
	Elsewhere                         map[string]string // services, and where they are
	APITLSCert, APITLSKey             string
	XDSTLSCert, XDSTLSKey             string
	XDSClientCA, OIDCCAFile           string
	Auth                              string
	InsecurePlaintext                 bool
	PublishWait                       time.Duration
	DrainSeconds                      int
	APIRate                           float64
	Quotas                            string
	QuotaBound                        int
	LogLevel, LogFormat, AccessLog    string
	APIAdvertise                      string
	Audit, AuditFile, AuditWebhook    string
	AuditMaxBytes                     int64
	BackupDir                         string
	BackupEvery                       time.Duration
	BackupKeep                        int
}

func addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.String("config", "", "YAML `file` with settings under their flags' names")
	f.String("api-listen", "127.0.0.1:7070", "`address` of the AWS-compatible API and of Evermesh's own")
	f.String("api-advertise", "", "`URL` under which other replicas reach --api-listen, to look up events; none: its address, or one of this host")
	f.String("xds-listen", "127.0.0.1:7071", "`address` of the Envoy management service")
	f.String("admin-listen", "127.0.0.1:7072", "`address` of /healthz, /readyz, /metrics and /debug/pprof: plaintext and without authentication, so loopback or a management network")
	f.String("data-dir", defaultDataDir(), "`directory` of embedded etcd, keys and certificates")
	f.StringSlice("etcd-endpoints", nil, "`addresses` of an external etcd; none: etcd is embedded")
	f.String("etcd-cacert", "", "`file` with the CA of the external etcd")
	f.String("etcd-cert", "", "`file` with the client certificate for the external etcd")
	f.String("etcd-key", "", "`file` with the key of --etcd-cert")
	f.String("etcd-prefix", "/evermesh", "`prefix` of all keys in etcd")
	f.String("master-key-file", "", "`file` with the key that seals secrets at rest; made in the data directory with embedded etcd, required with --etcd-endpoints")
	f.String("partition", "aws", "`partition` in ARNs")
	f.String("region", "us-east-1", "`region` in ARNs and in the scope of signatures")
	f.String("account", "000000000000", "the first `account`, 12 digits")
	f.String("cloudmap-region", "", "`region` of the AWS Cloud Map that knows the instances of nodes with awsCloudMap; with --cloudmap-endpoint the default is --region; neither: the registry that evermeshd has itself")
	f.String("cloudmap-endpoint", "", "`URL` of a Cloud Map that is not AWS's own")
	f.StringSlice("aws-service", nil, "`NAME=URL`: send the calls of that AWS service to another place, NAME=aws: to AWS's own, with the credentials of evermeshd; may be repeated. NAME is one of "+strings.Join(switchable, ", "))
	f.Duration("cloudmap-poll", cloudmap.MaxPoll, "how `long` between two looks at a service in Cloud Map, 50ms to 5s")
	f.String("dns-listen", "", "`address`, such as 10.0.0.2:53, at which names of private DNS namespaces are answered, over UDP and TCP; none: they are not")
	f.String("dns-virtual-services", "off", "whether names of virtual services are answered too, so that they need no record of their own: on or off")
	f.StringSlice("dns-virtual-services-address", []string{"10.10.10.10"}, "`addresses`, one of IPv4 and one of IPv6 at most, with which they are: nobody is there, and proxies catch what goes there")
	f.String("dns-forward", "", "`address` of the name server that is asked for all other names; none: they are refused")
	f.Float64("dns-rate", 2000, "queries per second and client over UDP; above it clients are told to use TCP; 0: no limit")
	f.String("api-tls-cert", "", "`file` with the API's certificate chain; none: plaintext, on loopback only")
	f.String("api-tls-key", "", "`file` with the key of --api-tls-cert")
	f.String("xds-tls-cert", "", "`file` with the management service's certificate chain; none: made in the data directory when the address is not loopback")
	f.String("xds-tls-key", "", "`file` with the key of --xds-tls-cert")
	f.String("xds-client-ca", "", "`file` with the CA of client certificates; they are verified when given")
	f.String("oidc-ca-file", "", "`file` with CAs, beside the system's, of the identity providers whose tokens are accepted")
	f.String("auth", "sigv4", "how callers prove who they are: sigv4, or off (on loopback, or with --insecure-plaintext)")
	f.Bool("insecure-plaintext", false, "let addresses that are not loopback go without TLS")
	f.Duration("publish-wait", 30*time.Second, "how `long` a proxy's routes wait for its silence about new clusters, and proxies for each other when listeners change")
	f.Int("drain-seconds", 20, "how many `seconds` the streams' ends are spread over after SIGTERM")
	f.Float64("api-rate", 1000, "requests per second and access key; 0: no limit")
	f.String("quotas", "none", "how many resources and connected proxies there may be, where nothing else is said of an account: none (no limit), or aws (App Mesh's own quotas)")
	f.Int("quota-bound", 10, "how many `times` AWS's number an account may raise a quota to by itself, through Service Quotas; 0: not at all")
	f.String("audit", "all", "what is kept as events of CloudTrail: all (calls and connections of proxies), writes (no calls that only read), or off")
	f.Int64("audit-max-bytes", audit.DefaultBytes, "how many `bytes` of events a replica keeps in its data directory; they are kept for 90 days otherwise")
	f.String("audit-file", "", "`file` that gets each event of this replica as a line of JSON; it may be rotated, and is opened anew at SIGHUP")
	f.String("audit-webhook", "", "`URL` that gets the events of this replica as lines of JSON, many in a POST, each at least once")
	f.String("backup-dir", "", "`directory` for backups that are made by themselves; with embedded etcd the default is backups in the data directory, with --etcd-endpoints none")
	f.Duration("backup-every", 24*time.Hour, "how `long` between two of them, of all replicas together; 0: none are made")
	f.Int("backup-keep", 7, "how many of them stay in the directory")
	f.String("log-level", "info", "debug, info, warn or error")
	f.String("log-format", "text", "text or json")
	f.String("access-log", "off", "a line for every API request: on or off")
}

func defaultDataDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "evermesh")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "evermesh-data"
	}
	return filepath.Join(home, ".local", "state", "evermesh")
}

// load fills the flags that were not given from the environment and the file,
// and checks the whole.
func load(f *pflag.FlagSet, env func(string) (string, bool)) (config, error) {
	if err := fromEnvironment(f, env); err != nil {
		return config{}, err
	}
	if err := fromFile(f); err != nil {
		return config{}, err
	}
	get := func(name string) string { return f.Lookup(name).Value.String() }
	endpoints, _ := f.GetStringSlice("etcd-endpoints")
	plaintext, _ := f.GetBool("insecure-plaintext")
	wait, _ := f.GetDuration("publish-wait")
	drain, _ := f.GetInt("drain-seconds")
	rate, _ := f.GetFloat64("api-rate")
	bound, _ := f.GetInt("quota-bound")
	poll, _ := f.GetDuration("cloudmap-poll")
	dnsRate, _ := f.GetFloat64("dns-rate")
	dnsAddresses, _ := f.GetStringSlice("dns-virtual-services-address")
	auditMaxBytes, _ := f.GetInt64("audit-max-bytes")
	backupEvery, _ := f.GetDuration("backup-every")
	backupKeep, _ := f.GetInt("backup-keep")
	services, _ := f.GetStringSlice("aws-service")
	elsewhere, err := parseElsewhere(services)
	if err != nil {
		return config{}, err
	}
	c := config{
		Elsewhere: elsewhere,
		APIListen: get("api-listen"), XDSListen: get("xds-listen"), AdminListen: get("admin-listen"),
		DataDir: get("data-dir"), EtcdEndpoints: endpoints, EtcdCACert: get("etcd-cacert"), EtcdCert: get("etcd-cert"),
		EtcdKey: get("etcd-key"), EtcdPrefix: get("etcd-prefix"), MasterKeyFile: get("master-key-file"),
		Partition: get("partition"), Region: get("region"), Account: get("account"),
		CloudMapRegion: get("cloudmap-region"), CloudMapEndpoint: get("cloudmap-endpoint"), CloudMapPoll: poll,
		DNSListen: get("dns-listen"), DNSForward: get("dns-forward"), DNSRate: dnsRate,
		DNSVirtualServices: get("dns-virtual-services"), DNSVirtualServicesAddress: dnsAddresses,
		APITLSCert: get("api-tls-cert"), APITLSKey: get("api-tls-key"), XDSTLSCert: get("xds-tls-cert"),
		XDSTLSKey: get("xds-tls-key"), XDSClientCA: get("xds-client-ca"), OIDCCAFile: get("oidc-ca-file"), Auth: get("auth"), InsecurePlaintext: plaintext,
		PublishWait: wait, DrainSeconds: drain, APIRate: rate, Quotas: get("quotas"), QuotaBound: bound,
		LogLevel: get("log-level"), LogFormat: get("log-format"), AccessLog: get("access-log"),
		APIAdvertise: strings.TrimSuffix(get("api-advertise"), "/"), Audit: get("audit"), AuditMaxBytes: auditMaxBytes,
		AuditFile: get("audit-file"), AuditWebhook: get("audit-webhook"),
		BackupDir: get("backup-dir"), BackupEvery: backupEvery, BackupKeep: backupKeep,
	}
	if c.MasterKeyFile == "" && len(c.EtcdEndpoints) == 0 {
		c.MasterKeyFile = filepath.Join(c.DataDir, "master-key")
	}
	if c.BackupDir == "" && len(c.EtcdEndpoints) == 0 {
		c.BackupDir = filepath.Join(c.DataDir, "backups")
	}
	if at := c.Elsewhere["servicediscovery"]; at != "" && c.CloudMapRegion == "" && c.CloudMapEndpoint == "" {
		// What is registered there is what proxies are to find.
		if c.CloudMapRegion = c.Region; at != forward.AWS {
			c.CloudMapEndpoint = at
		}
	}
	if c.CloudMapEndpoint != "" && c.CloudMapRegion == "" {
		c.CloudMapRegion = c.Region
	}
	return c, c.check()
}

func variable(flag string) string {
	return "EVERMESH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fromEnvironment(f *pflag.FlagSet, env func(string) (string, bool)) error {
	var failed error
	f.VisitAll(func(flag *pflag.Flag) {
		value, ok := env(variable(flag.Name))
		if !ok || flag.Changed || flag.Name == "help" {
			return
		}
		if err := f.Set(flag.Name, value); err != nil && failed == nil {
			failed = usagef("%s: %v", variable(flag.Name), err)
		}
	})
	return failed
}

func fromFile(f *pflag.FlagSet) error {
	name, _ := f.GetString("config")
	if name == "" {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return usagef("--config: %v", err)
	}
	var doc map[string]yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		if _, typed := errors.AsType[*yaml.TypeError](err); !typed {
			e := document.Syntax(text, err)
			return usagef("--config %s, line %d: %s", name, e.Line, e.Message)
		}
		return usagef("--config %s: %v", name, err)
	}
	for key, node := range doc {
		flag := f.Lookup(key)
		if flag == nil || key == "config" || key == "help" {
			return usagef("--config %s, line %d: %q is not a setting; see evermeshd serve --help", name, node.Line, key)
		}
		if flag.Changed {
			continue
		}
		value := node.Value
		if node.Kind == yaml.SequenceNode {
			var list []string
			if err := node.Decode(&list); err != nil {
				return usagef("--config %s, line %d: %s: %v", name, node.Line, key, err)
			}
			value = strings.Join(list, ",")
		}
		if err := f.Set(key, value); err != nil {
			return usagef("--config %s, line %d: %s: %v", name, node.Line, key, err)
		}
	}
	return nil
}

// printConfig writes every setting in the form of the file.
func printConfig(w io.Writer, f *pflag.FlagSet) error {
	var failed error
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "config" || flag.Name == "help" || failed != nil {
			return
		}
		value := any(flag.Value.String())
		if list, err := f.GetStringSlice(flag.Name); err == nil {
			value = list
		}
		line, err := yaml.Marshal(map[string]any{flag.Name: value})
		if err == nil {
			_, err = w.Write(line)
		}
		failed = err
	})
	return failed
}

// check refuses settings that contradict each other or are not safe (D5). Each
// text names the setting.
func (c config) check() error {
	if !regexp.MustCompile(`^[0-9]{12}$`).MatchString(c.Account) {
		return usagef("--account %q is not an account: want 12 digits", c.Account)
	}
	// They become parts of ARNs and of the scopes of signatures.
	word := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	for _, part := range [][2]string{{"--partition", c.Partition}, {"--region", c.Region}, {"--cloudmap-region", cmp.Or(c.CloudMapRegion, c.Region)}} {
		if !word.MatchString(part[1]) {
			return usagef("%s %q: want lower-case letters, digits and hyphens, such as us-east-1", part[0], part[1])
		}
	}
	for _, choice := range []struct {
		flag, value string
		of          []string
	}{
		{"--auth", c.Auth, []string{"sigv4", "off"}},
		{"--quotas", c.Quotas, []string{"none", "aws"}},
		{"--log-level", c.LogLevel, []string{"debug", "info", "warn", "error"}},
		{"--log-format", c.LogFormat, []string{"text", "json"}},
		{"--access-log", c.AccessLog, []string{"on", "off"}},
		{"--dns-virtual-services", c.DNSVirtualServices, []string{"on", "off"}},
		{"--audit", c.Audit, []string{"all", "writes", "off"}},
	} {
		if !slices.Contains(choice.of, choice.value) {
			return usagef("%s %q: want %s", choice.flag, choice.value, strings.Join(choice.of, " or "))
		}
	}
	if len(c.EtcdEndpoints) > 0 && c.MasterKeyFile == "" {
		return usagef("--master-key-file is required with --etcd-endpoints: all replicas need the same key")
	}
	for _, pair := range [][4]string{
		{"--api-tls-cert", c.APITLSCert, "--api-tls-key", c.APITLSKey},
		{"--xds-tls-cert", c.XDSTLSCert, "--xds-tls-key", c.XDSTLSKey},
		{"--etcd-cert", c.EtcdCert, "--etcd-key", c.EtcdKey},
	} {
		if (pair[1] == "") != (pair[3] == "") {
			return usagef("%s and %s belong together: give both or none", pair[0], pair[2])
		}
	}
	if !local(c.APIListen) && c.APITLSCert == "" && !c.InsecurePlaintext {
		return usagef("--api-listen %s is not a loopback address: give --api-tls-cert and --api-tls-key, or --insecure-plaintext", c.APIListen)
	}
	if err := readable("--oidc-ca-file", c.OIDCCAFile); err != nil {
		return err
	}
	if c.XDSClientCA != "" && c.XDSTLSCert == "" && !c.ownXDS() {
		return usagef("--xds-client-ca is for TLS, and --xds-listen %s goes without: give --xds-tls-cert and --xds-tls-key, or remove it", c.XDSListen)
	}
	if c.Auth == "off" && (!local(c.APIListen) || !local(c.XDSListen)) && !c.InsecurePlaintext {
		return usagef("--auth off is for loopback addresses: remove it, or add --insecure-plaintext")
	}
	if err := c.checkCloudMap(); err != nil {
		return err
	}
	if err := c.checkDNS(); err != nil {
		return err
	}
	if err := c.checkAudit(); err != nil {
		return err
	}
	if c.DrainSeconds < 0 {
		return usagef("--drain-seconds %d: want seconds, or 0", c.DrainSeconds)
	}
	if c.BackupEvery != 0 && c.BackupEvery < time.Second {
		return usagef("--backup-every %s: want a time such as 24h, or 0", c.BackupEvery)
	}
	if c.BackupKeep < 1 {
		return usagef("--backup-keep %d: want at least 1; --backup-every 0 makes none", c.BackupKeep)
	}
	if c.QuotaBound < 0 {
		return usagef("--quota-bound %d: want how many times AWS's number, or 0", c.QuotaBound)
	}
	if c.PublishWait < 0 {
		return usagef("--publish-wait %s: want a time such as 30s, or 0", c.PublishWait)
	}
	if !(c.APIRate >= 0) || math.IsInf(c.APIRate, 0) { // also what is not a number
		return usagef("--api-rate %v: want requests per second, or 0 for no limit", c.APIRate)
	}
	return nil
}

// ownXDS says whether the management service is served with a certificate that
// the control plane makes for itself.
func (c config) ownXDS() bool {
	return c.XDSTLSCert == "" && !local(c.XDSListen) && !c.InsecurePlaintext
}

// local says whether an address is a unix socket or loopback only.
func local(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// listen opens an address: host:port or unix:PATH.
func listen(flag, address string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", strings.TrimPrefix(path, "//")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return l, nil
}
