package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/cni"
	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

const wait = 2 * testenv.Patience

func TestMain(m *testing.M) {
	if slices.ContainsFunc(os.Args, func(arg string) bool {
		return strings.HasPrefix(arg, "-test.fuzz=") || arg == "-test.fuzzworker"
	}) {
		os.Exit(m.Run()) // whose workers are started by a program that must be their parent
	}
	exit, inside, err := ground.Enter(context.Background())
	if err != nil {
		// What touches no kernel runs anywhere; the rest says what is missing.
		fmt.Fprintln(os.Stderr, err)
		os.Exit(m.Run())
	}
	if !inside {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// call runs the plugin with its variables, "CNI_COMMAND=ADD", and its configuration.
func call(t *testing.T, config string, env ...string) (code int, stdout, stderr string) {
	t.Helper()
	m := map[string]string{"CNI_CONTAINERID": "c1", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "aws-appmesh", "CNI_PATH": "/opt/cni/bin"}
	for _, line := range env {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	var out, errs bytes.Buffer
	code = cni.Run(t.Context(), func(name string) string { return m[name] }, strings.NewReader(config), &out, &errs)
	return code, out.String(), errs.String()
}

// failure is call that must fail, with its answer.
func failure(t *testing.T, config string, env ...string) cni.Error {
	t.Helper()
	code, stdout, _ := call(t, config, env...)
	var got cni.Error
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil || code != 1 {
		t.Fatalf("exit %d, %v: %s", code, err, stdout)
	}
	return got
}

const valid = `"name":"mesh","type":"aws-appmesh","ignoredUID":"1337","proxyIngressPort":"15000","proxyEgressPort":"15001","appPorts":["80"]`

func TestVersion(t *testing.T) {
	code, stdout, _ := call(t, "{}", "CNI_COMMAND=VERSION")
	const want = `{"cniVersion":"1.0.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0"]}` + "\n"
	if code != 0 || stdout != want {
		t.Errorf("exit %d: %s", code, stdout)
	}
}

func TestRefuses(t *testing.T) {
	with := func(fields string) string {
		return `{"cniVersion":"0.4.0","name":"mesh","type":"aws-appmesh",` + fields + `}`
	}
	ports := `"proxyIngressPort":"15000","proxyEgressPort":"15001","appPorts":["80"]`
	for _, test := range []struct {
		name, config string
		env          []string
		want         cni.Error // of Details the beginning
	}{
		{"no command", "{}", []string{"CNI_COMMAND="}, cni.Error{CNIVersion: "1.0.0", Code: 4, Msg: "unknown CNI_COMMAND"}},
		{"a command of later versions", "{}", []string{"CNI_COMMAND=GC"}, cni.Error{CNIVersion: "1.0.0", Code: 4, Msg: "unknown CNI_COMMAND"}},
		{"no container", "{}", []string{"CNI_CONTAINERID=", "CNI_IFNAME="}, cni.Error{CNIVersion: "1.0.0", Code: 4, Msg: "required env variables are missing", Details: "CNI_CONTAINERID,CNI_IFNAME"}},
		{"a container's name that is a path", "{}", []string{"CNI_CONTAINERID=../x"}, cni.Error{CNIVersion: "1.0.0", Code: 4, Msg: "invalid CNI_CONTAINERID"}},
		{"an interface's name that is too long", "{}", []string{"CNI_IFNAME=0123456789abcdef"}, cni.Error{CNIVersion: "1.0.0", Code: 4, Msg: "invalid CNI_IFNAME"}},
		{"no JSON", "{", nil, cni.Error{CNIVersion: "1.0.0", Code: 6, Msg: "cannot decode the configuration"}},
		{"a number for a string", `{"cniVersion":"0.4.0","ignoredUID":1337}`, nil, cni.Error{CNIVersion: "1.0.0", Code: 6, Msg: "cannot decode the configuration"}},
		{"no version", "{" + valid + "}", nil, cni.Error{CNIVersion: "1.0.0", Code: 1, Msg: "incompatible CNI versions", Details: `config is "0.1.0"`}},
		{"an old version", `{"cniVersion":"0.2.0",` + valid + "}", nil, cni.Error{CNIVersion: "1.0.0", Code: 1, Msg: "incompatible CNI versions", Details: `config is "0.2.0", plugin supports ["0.3.0" "0.3.1" "0.4.0" "1.0.0"]`}},
		{"no name", `{"cniVersion":"0.4.0","type":"aws-appmesh"}`, nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Msg: "invalid network configuration", Details: `name ""`}},
		{"neither user nor group", with(ports), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: "ignoredUID or ignoredGID is required"}},
		{"a user's name", with(`"ignoredUID":"envoy",` + ports), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: `ignoredUID "envoy": want a number`}},
		{"ICPT-023 a group above the bound", with(`"ignoredGID":"2147483648",` + ports), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: `ignoredGID "2147483648": want`}},
		{"no egress port", with(`"ignoredUID":"1"`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: "proxyEgressPort is required"}},
		{"application ports without ingress port", with(`"ignoredUID":"1","proxyEgressPort":"1","appPorts":["80"]`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: "proxyIngressPort and appPorts are required together"}},
		{"one empty application port counts as one", with(`"ignoredUID":"1","proxyEgressPort":"1","appPorts":[""]`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: "proxyIngressPort and appPorts are required together"}},
		{"an ingress port without application ports", with(`"ignoredUID":"1","proxyEgressPort":"1","proxyIngressPort":"2"`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: "proxyIngressPort and appPorts are required together"}},
		{"port 0", with(`"ignoredUID":"1","proxyEgressPort":"0"`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: `proxyEgressPort "0": want a port`}},
		{"a range of ports", with(`"ignoredUID":"1","proxyEgressPort":"1","egressIgnoredPorts":["25","80:90"]`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: `egressIgnoredPorts "80:90": want a port`}},
		{"a name for an address", with(`"ignoredUID":"1","proxyEgressPort":"1","egressIgnoredIPs":["localhost"]`), nil, cni.Error{CNIVersion: "0.4.0", Code: 7, Details: `egressIgnoredIPs "localhost": want`}},
		{"a log file that cannot be", with(`"logFile":"/nowhere/log"`), nil, cni.Error{CNIVersion: "0.4.0", Code: 5, Msg: "cannot open the log file"}},
		{"a result before that is none", with(`"ignoredUID":"1","proxyEgressPort":"1","prevResult":[]`), nil, cni.Error{CNIVersion: "0.4.0", Code: 6, Msg: "cannot decode prevResult"}},
		{"a namespace that is gone", `{"cniVersion":"0.4.0",` + valid + "}", nil, cni.Error{CNIVersion: "0.4.0", Code: 8, Msg: "invalid network namespace", Details: "/nowhere: "}},
		{"the node's own namespace", `{"cniVersion":"1.0.0",` + valid + "}", []string{"CNI_NETNS=/proc/thread-self/ns/net"}, cni.Error{CNIVersion: "1.0.0", Code: 8, Msg: "invalid network namespace", Details: "/proc/thread-self/ns/net: "}}, // the first thread may be in a container's
		{"a check before there were checks", `{"cniVersion":"0.3.1",` + valid + "}", []string{"CNI_COMMAND=CHECK"}, cni.Error{CNIVersion: "0.3.1", Code: 1, Msg: "config version does not allow CHECK"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := failure(t, test.config, append([]string{"CNI_COMMAND=ADD"}, test.env...)...)
			if test.want.Msg == "" {
				test.want.Msg = "invalid network configuration"
			}
			if strings.HasPrefix(got.Details, test.want.Details) {
				got.Details = test.want.Details
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	t.Run("no tool", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if got := failure(t, `{"cniVersion":"0.4.0",`+valid+"}", "CNI_COMMAND=ADD"); got.Code != 100 || !strings.Contains(got.Details, "install nftables or iptables") {
			t.Errorf("got %+v", got)
		}
	})
}

// scene is a container with a namespace that a path leads to, and another host.
type scene struct {
	ground           *ground.Ground
	container, other *ground.Host
	netns            string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	if !ground.Inside() {
		_, _, err := ground.Enter(t.Context())
		t.Skipf("this machine allows no network namespaces with redirection: %v", err)
	}
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if g.Owner().UID == 0 {
		t.Skip("this machine allows no network namespaces with redirection by user: it has one user id")
	}
	s := &scene{ground: g, netns: filepath.Join(g.Dir(), "netns")}
	for name, host := range map[string]**ground.Host{"container": &s.container, "other": &s.other} {
		if *host, err = g.Host(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.netns, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := s.container.Do(func() error {
		return unix.Mount("/proc/thread-self/ns/net", s.netns, "", unix.MS_BIND, "")
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.netns, unix.MNT_DETACH) })
	for port, text := range map[string]string{"15001": "egress", "15000": "ingress", "8001": "app", "8018": "app", "8099": "unmodelled"} {
		tell(t, s.container, ":"+port, text)
	}
	for _, port := range []string{"9080", "22", "2018"} {
		tell(t, s.other, ":"+port, "other:"+port)
	}
	return s
}

func tell(t *testing.T, h *ground.Host, addr, text string) {
	t.Helper()
	stop, err := h.Greet(addr, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func hears(t *testing.T, from *ground.Host, to netip.Addr, port, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", net.JoinHostPort(to.String(), port))
	if err != nil {
		t.Errorf("from %s to %s port %s: %v", from.Name(), to, port, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want {
		t.Errorf("from %s to %s port %s: got %q, %v; want %q", from.Name(), to, port, got, err, want)
	}
}

// numbered are ports as a list of JSON, more than 15 of them.
func numbered(first int) string {
	var out []string
	for n := range 18 {
		out = append(out, fmt.Sprintf("%q", fmt.Sprint(first+n)))
	}
	return "[" + strings.Join(out, ",") + "]"
}

func TestPlugin(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // the machine's is root's
	backends, err := intercept.Find("auto")
	if err != nil {
		t.Skipf("this machine allows no network namespaces with redirection: %v", err)
	}
	for _, b := range backends {
		t.Run(b.Name(), func(t *testing.T) { plugin(t, newScene(t), b) })
	}
}

// plugin follows a container from its first ADD to its end.
func plugin(t *testing.T, s *scene, b intercept.Backend) {
	log := filepath.Join(s.ground.Dir(), "plugin.log")
	config := func(version, more string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":"mesh","type":"aws-appmesh","ignoredUID":"1337","ignoredGID":"","proxyIngressPort":"15000","proxyEgressPort":"15001",
			"appPorts":%s,"egressIgnoredPorts":%s,"egressIgnoredIPs":[" 169.254.170.2","169.254.169.254","fd00:ec2::254"],"backend":%q,"logFile":%q%s}`,
			version, numbered(8001), numbered(2001), b.Name(), log, more)
	}
	do := func(t *testing.T, command, config, want string) {
		t.Helper()
		code, stdout, stderr := call(t, config, "CNI_COMMAND="+command, "CNI_NETNS="+s.netns)
		if code != 0 || stdout != want || stderr != "" {
			t.Errorf("exit %d, got %s, want %s\n%s", code, stdout, want, stderr)
		}
	}
	here, there := s.container.Addr(), s.other.Addr()
	six := s.container.Addr6().IsValid()
	t.Run("CHECK before ADD", func(t *testing.T) {
		if got := failure(t, config("0.4.0", ""), "CNI_COMMAND=CHECK", "CNI_NETNS="+s.netns); got.Code != cni.CodeDiffers || !strings.Contains(got.Details, "no rules of ours") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("DEL before ADD", func(t *testing.T) { do(t, "DEL", config("0.3.0", ""), "") })
	t.Run("alone, an empty result", func(t *testing.T) {
		do(t, "ADD", config("0.4.0", ""), `{"cniVersion":"0.4.0","dns":{}}`+"\n")
	})
	t.Run("in a chain, the result before, in each version, and again", func(t *testing.T) {
		const before = `"dns":{},"interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.2/24","interface":0}]`
		for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
			do(t, "ADD", config(version, `,"enableIPv6":true,"prevResult":{"cniVersion":"0.4.0",`+before+`}`), fmt.Sprintf(`{"cniVersion":%q,%s}`+"\n", version, before))
		}
	})
	t.Run("CHECK, and CHECK of another configuration", func(t *testing.T) {
		do(t, "CHECK", config("1.0.0", `,"enableIPv6":true`), "")
		got := failure(t, config("1.0.0", ""), "CNI_COMMAND=CHECK", "CNI_NETNS="+s.netns)
		if got.Code != cni.CodeDiffers || !strings.Contains(got.Details, "was not asked for") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("traffic goes through Envoy, for the sixteenth port and later too", func(t *testing.T) {
		hears(t, s.other, here, "8001", "ingress")
		hears(t, s.other, here, "8018", "ingress")
		hears(t, s.other, here, "8099", "unmodelled")
		hears(t, s.container, there, "9080", "egress")
		hears(t, s.container, there, "2018", "other:2018")
		if six {
			hears(t, s.container, s.other.Addr6(), "9080", "egress")
			hears(t, s.other, s.container.Addr6(), "8018", "ingress")
		}
	})
	t.Run("ICPT-005 port 22 is left alone though nobody listed it", func(t *testing.T) {
		hears(t, s.container, there, "22", "other:22")
	})
	t.Run("[\"\"] is no ports", func(t *testing.T) {
		do(t, "ADD", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"mesh","type":"aws-appmesh","ignoredGID":"1337","proxyIngressPort":"15000","proxyEgressPort":"15001",
			"appPorts":[""],"egressIgnoredPorts":[""],"backend":%q,"logFile":%q}`, b.Name(), log), `{"cniVersion":"0.4.0","dns":{}}`+"\n")
		hears(t, s.other, here, "8001", "app")
		hears(t, s.container, there, "2018", "egress")
		if six {
			hears(t, s.container, s.other.Addr6(), "9080", "other:9080")
		}
	})
	t.Run("DEL, twice, without a configuration that could be installed", func(t *testing.T) {
		for range 2 {
			do(t, "DEL", fmt.Sprintf(`{"cniVersion":"0.4.0","name":"mesh","type":"aws-appmesh","logFile":%q}`, log), "")
		}
		hears(t, s.container, there, "9080", "other:9080")
		hears(t, s.other, here, "8001", "app")
	})
	t.Run("the log", func(t *testing.T) {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`msg="interception installed" container=c1 netns=` + s.netns, `msg="interception removed"`, `msg="command failed" command=CHECK container=c1 code=101`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	})
	t.Run("DEL when the namespace is gone", func(t *testing.T) {
		if err := unix.Unmount(s.netns, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		do(t, "DEL", config("0.4.0", ""), "") // the file is there, and no namespace
		for _, netns := range []string{"", "/nowhere"} {
			if code, stdout, _ := call(t, config("0.4.0", ""), "CNI_COMMAND=DEL", "CNI_NETNS="+netns); code != 0 || stdout != "" {
				t.Errorf("CNI_NETNS=%s: exit %d, %s", netns, code, stdout)
			}
		}
	})
}

// What the runtime sends is anything.
func FuzzRun(f *testing.F) {
	f.Add("ADD", `{"cniVersion":"0.4.0",`+valid+`,"prevResult":{}}`)
	f.Add("CHECK", `{"cniVersion":"1.0.0","appPorts":[""]}`)
	f.Add("DEL", `null`)
	f.Setenv("PATH", f.TempDir()) // no tool is needed for what is read
	f.Fuzz(func(t *testing.T, command, config string) {
		if strings.Contains(config, "logFile") {
			t.Skip() // it would write there
		}
		code, stdout, _ := call(t, config, "CNI_COMMAND="+command)
		if stdout != "" && !json.Valid([]byte(stdout)) {
			t.Errorf("exit %d: %q is no JSON", code, stdout)
		}
		if code != 0 && !strings.Contains(stdout, `"code":`) {
			t.Errorf("exit %d without a code: %q", code, stdout)
		}
	})
}
