package platform

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// parse reads an environment in which $URL is the stand-in's address. Without lines about it, EC2's service is not asked.
func parse(t *testing.T, s *standIn, lines ...string) settings.Settings {
	t.Helper()
	env := []string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=control.example:7071"}
	for _, line := range lines {
		env = append(env, strings.ReplaceAll(line, "$URL", s.URL))
	}
	if !slices.ContainsFunc(env, func(l string) bool { return strings.HasPrefix(l, "AWS_EC2_METADATA_SERVICE_ENDPOINT=") }) {
		env = append(env, "AWS_EC2_METADATA_DISABLED=true")
	}
	parsed, err := settings.Parse(agenttest.Environment(env...), settings.Flags{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

const (
	onInstance = "AWS_EC2_METADATA_SERVICE_ENDPOINT=$URL"
	onFargate  = "AWS_EXECUTION_ENV=AWS_ECS_FARGATE"
	onECS      = "AWS_EXECUTION_ENV=AWS_ECS_EC2"
	inPod      = "APPMESH_PLATFORM_K8S_VERSION=v1.31.0 APPMESH_PLATFORM_K8S_POD_UID=u APPMESH_PLATFORM_APP_MESH_CONTROLLER_VERSION=v1.13.0"
)

// told are the facts that only services tell.
func told(f bootstrap.Facts) bootstrap.Facts {
	return bootstrap.Facts{Region: f.Region, Zone: f.Zone, ZoneID: f.ZoneID, Task: f.Task}
}

func TestAsk(t *testing.T) {
	for _, test := range []struct {
		name  string
		env   string
		want  bootstrap.Facts
		asked []string
	}{
		{"nothing is asked that nobody named", "", bootstrap.Facts{}, nil},
		{
			"a task on Fargate, which has no instance to ask", onFargate + " ECS_CONTAINER_METADATA_URI_V4=$URL/ecs/v4-fargate ECS_CONTAINER_METADATA_URI=$URL/ecs/v3",
			bootstrap.Facts{Region: "us-west-2", Task: &bootstrap.Task{
				Cluster: "arn:aws:ecs:us-west-2:111122223333:cluster/shop", ARN: "arn:aws:ecs:us-west-2:111122223333:task/shop/e9028f8d5d8e4f258373e7b93ce9a3c3",
				CPU: "0.25", Memory: "512", Zone: "us-west-2a", Families: "ALL",
			}},
			[]string{"GET /ecs/v4-fargate", "GET /ecs/v4-fargate/task"},
		},
		{
			"a task on an instance, behind its bridge", onECS + " ECS_CONTAINER_METADATA_URI_V4=$URL/ecs/v4-ec2 " + onInstance,
			bootstrap.Facts{Region: "us-west-2", ZoneID: "usw2-az2", Task: &bootstrap.Task{
				Cluster: "shop", ARN: "arn:aws:ecs:us-west-2:111122223333:task/shop/158d1c8083dd49d6b527399fd6414f5c",
				CPU: "512", Memory: "128", Zone: "us-west-2d", Families: "ALL",
			}},
			[]string{"GET /ecs/v4-ec2", "GET /ecs/v4-ec2/task", "GET /latest/meta-data/placement/availability-zone-id", "GET /latest/meta-data/placement/region", tokenAsk},
		},
		{
			"the same, reached by IPv6 only", onECS + ` ECS_CONTAINER_METADATA_URI_V4=$URL/ecs/v4-ec2 APPNET_CONTAINER_IP_MAPPING={"orders":"2001:db8::7"}`,
			bootstrap.Facts{Region: "us-west-2", Task: &bootstrap.Task{
				Cluster: "shop", ARN: "arn:aws:ecs:us-west-2:111122223333:task/shop/158d1c8083dd49d6b527399fd6414f5c",
				CPU: "512", Memory: "128", Zone: "us-west-2d", Families: "IPv6_ONLY",
			}},
			[]string{"GET /ecs/v4-ec2", "GET /ecs/v4-ec2/task"},
		},
		{
			"version 3 of the task's endpoint", onECS + " ECS_CONTAINER_METADATA_URI=$URL/ecs/v3",
			bootstrap.Facts{Region: "us-east-2", Task: &bootstrap.Task{
				Cluster: "default", ARN: "arn:aws:ecs:us-east-2:012345678910:task/9781c248-0edd-4cdb-9a93-f63cb662a5d3",
				CPU: "512", Memory: "512", Families: "IPv4_ONLY",
			}},
			[]string{"GET /ecs/v3", "GET /ecs/v3/task"},
		},
		{
			"AGENT-048 a pod on an instance that takes version 2 only", inPod + " " + onInstance,
			bootstrap.Facts{Region: "us-west-2", Zone: "us-west-2d", ZoneID: "usw2-az2"},
			[]string{
				"GET /latest/meta-data/placement/availability-zone", "GET /latest/meta-data/placement/availability-zone-id",
				"GET /latest/meta-data/placement/region", tokenAsk,
			},
		},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			s, m := newStandInWithin(t)
			found, err := Ask(t.Context(), parse(t, s, strings.Fields(test.env)...), m)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(test.want, told(found.Facts)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.asked, s.asked()); diff != "" {
				t.Errorf("asked (-want +got)\n%s", diff)
			}
		})
	}
}

// inBubble runs a test whose clock goes on when everybody waits, and only then.
func inBubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	})
}

// TestAskInVain has services that fail: what they did not tell is left out and said, and it costs no more than 1.5 s.
func TestAskInVain(t *testing.T) {
	const zoneAsk = "GET /latest/meta-data/placement/availability-zone-id"
	task := " ECS_CONTAINER_METADATA_URI_V4=$URL/ecs/v4-ec2"
	nothing := bootstrap.Facts{}
	inRegion := bootstrap.Facts{Region: "us-west-2"}
	for _, test := range []struct {
		name  string
		env   string
		wrong map[string]http.HandlerFunc
		want  bootstrap.Facts
		says  []string
		tries map[string]int
	}{
		{"a hop limit of 1: a connection and never an answer", onInstance, map[string]http.HandlerFunc{tokenAsk: silent}, nothing, []string{"for a token: no answer in time", "hop limit"}, map[string]int{tokenAsk: 2, zoneAsk: 0}},
		{"no token for this instance", onInstance, map[string]http.HandlerFunc{tokenAsk: status(403)}, nothing, []string{"for a token: answered 403 Forbidden"}, map[string]int{tokenAsk: 1, zoneAsk: 0}},
		{"what is no service of EC2", onInstance, map[string]http.HandlerFunc{tokenAsk: status(404)}, nothing, []string{"answered 404 Not Found"}, map[string]int{tokenAsk: 1, zoneAsk: 0}},
		{"a page instead of a token", onInstance, map[string]http.HandlerFunc{tokenAsk: says("<html>\n<body>Sign in</body></html>")}, nothing, []string{"answered what is no token"}, map[string]int{tokenAsk: 1, zoneAsk: 0}},
		{"a token that is not taken", onInstance, map[string]http.HandlerFunc{tokenAsk: says("mine")}, nothing, []string{"placement/region: answered 401 Unauthorized", "availability-zone-id: answered 401"}, map[string]int{tokenAsk: 1, zoneAsk: 1}},
		{"a service elsewhere", onInstance, map[string]http.HandlerFunc{tokenAsk: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}}, nothing, []string{"answered 307"}, map[string]int{tokenAsk: 1}},
		{"a zone that is none", onInstance, map[string]http.HandlerFunc{zoneAsk: says("<?xml version=\"1.0\"?>")}, inRegion, []string{"availability-zone-id: answered what is no name"}, map[string]int{zoneAsk: 1}},
		{"an older service without the zone's id", onInstance, map[string]http.HandlerFunc{zoneAsk: status(404)}, inRegion, []string{"availability-zone-id: answered 404"}, map[string]int{zoneAsk: 1}},
		{"an answer that is cut", onInstance, map[string]http.HandlerFunc{zoneAsk: cut}, inRegion, []string{"availability-zone-id: unexpected EOF"}, map[string]int{zoneAsk: 2}},
		{"an answer without an end", onInstance, map[string]http.HandlerFunc{zoneAsk: says(strings.Repeat("x", maxAnswer+1))}, inRegion, []string{"more than 1048576 bytes"}, nil},
		{"a task whose endpoint says nothing of use", onECS + task, map[string]http.HandlerFunc{"GET /ecs/v4-ec2": says("[]"), "GET /ecs/v4-ec2/task": says("not JSON")}, nothing, []string{"the task metadata endpoint: answered what is no description"}, nil},
		{"a task that is not known yet", onECS + task, map[string]http.HandlerFunc{"GET /ecs/v4-ec2": status(404), "GET /ecs/v4-ec2/task": status(404)}, nothing, []string{"answered 404"}, nil},
		{
			"a container that is not known yet", onECS + task,
			map[string]http.HandlerFunc{"GET /ecs/v4-ec2": status(404)},
			bootstrap.Facts{Region: "us-west-2", Task: &bootstrap.Task{
				Cluster: "shop", ARN: "arn:aws:ecs:us-west-2:111122223333:task/shop/158d1c8083dd49d6b527399fd6414f5c", Zone: "us-west-2d", Families: "ALL",
			}},
			[]string{"answered 404"},
			nil,
		},
		{
			"everything is silent", onECS + task + " " + onInstance,
			map[string]http.HandlerFunc{tokenAsk: silent, "GET /ecs/v4-ec2": silent, "GET /ecs/v4-ec2/task": silent},
			nothing,
			[]string{"the task metadata endpoint: no answer in time", "for a token: no answer in time"},
			nil,
		},
		{"a slow service that answers the second time", onInstance, map[string]http.HandlerFunc{tokenAsk: once(silent, says(token))}, bootstrap.Facts{Region: "us-west-2", ZoneID: "usw2-az2"}, nil, map[string]int{tokenAsk: 2}},
		{"trouble that passes", onInstance, map[string]http.HandlerFunc{tokenAsk: once(status(503), says(token)), zoneAsk: once(cut, says("usw2-az2"))}, bootstrap.Facts{Region: "us-west-2", ZoneID: "usw2-az2"}, nil, map[string]int{tokenAsk: 2, zoneAsk: 2}},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			s, m := newStandInWithin(t)
			s.wrong = test.wrong
			began := time.Now()
			found, err := Ask(t.Context(), parse(t, s, strings.Fields(test.env)...), m)
			if took := time.Since(began); took > limit {
				t.Errorf("it took %s", took)
			}
			if diff := cmp.Diff(test.want, told(found.Facts)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			for _, want := range test.says {
				if !strings.Contains(text, want) {
					t.Errorf("got %q, want %q", text, want)
				}
			}
			if len(test.says) == 0 && err != nil || strings.Contains(text, token) || strings.Contains(text, "v4-ec2") {
				t.Errorf("got %q", text)
			}
			asked := s.asked()
			for ask, want := range test.tries {
				n := 0
				for _, a := range asked {
					if a == ask {
						n++
					}
				}
				if n != want {
					t.Errorf("asked %d times for %s, want %d", n, ask, want)
				}
			}
			if slices.ContainsFunc(asked, func(a string) bool { return strings.HasSuffix(a, "without a token") }) {
				t.Errorf("version 1 was asked: %q", asked)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		_, err := Ask(t.Context(), parse(t, newStandIn(t), "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1"), Machine{Slow: 50})
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("got %v", err)
		}
	})
	inBubble(t, "the agent is told to end", func(t *testing.T) {
		s, m := newStandInWithin(t)
		s.wrong = map[string]http.HandlerFunc{tokenAsk: silent}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if _, err := Ask(ctx, parse(t, s, onInstance), m); err == nil || time.Since(began) > 0 {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestDialer has all that is asked go by the dialer, which marks its sockets.
func TestDialer(t *testing.T) {
	var marked atomic.Int32
	dialer := &net.Dialer{Control: func(string, string, syscall.RawConn) error { marked.Add(1); return nil }}
	s := newStandIn(t)
	if _, err := Ask(t.Context(), parse(t, s, onECS, "ECS_CONTAINER_METADATA_URI_V4=$URL/ecs/v4-ec2", onInstance), Machine{Dialer: dialer, Slow: 50}); err != nil {
		t.Fatal(err)
	}
	if marked.Load() == 0 {
		t.Error("no connection was marked")
	}
	// One that was opened in vain may be taken late.
	testenv.Eventually(t, "as many come as are marked", func() bool { return s.opened.Load() == marked.Load() })
}

// FuzzTask has any description of a task.
func FuzzTask(f *testing.F) {
	for _, file := range []string{"v4-fargate-task", "v4-ec2-task", "v3-task", "v3"} {
		text, err := os.ReadFile(filepath.Join("testdata", file+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, `{"a":"10.0.0.1"}`)
	}
	f.Add([]byte(`{"Containers": [null, {"Networks": [null, {"NetworkMode": "bridge"}]}]}`), `{"a": 5}`)
	f.Fuzz(func(t *testing.T, text []byte, mapping string) {
		var d description
		if json.Unmarshal(text, &d) != nil {
			return
		}
		var m map[string]any
		_ = json.Unmarshal([]byte(mapping), &m)
		switch got := families(d.Containers, m); got {
		case "", "ALL", "IPv4_ONLY", "IPv6_ONLY":
		default:
			t.Errorf("got %q", got)
		}
	})
}

// TestFirmware looks at where EC2's service is asked for without a word of the user's.
func TestFirmware(t *testing.T) {
	for vendor, want := range map[string]bool{"Amazon EC2": true, "Xen": true, "": true, "QEMU": false, "Google": false, "Microsoft Corporation": false} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "sys_vendor"), []byte(vendor+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := settings.PlatformSettings{InstanceMetadata: "http://169.254.169.254"}
		if got := asksInstance(p, dir); got != want {
			t.Errorf("%q: got %t", vendor, got)
		}
		p.InstanceNamed = true
		if !asksInstance(p, dir) {
			t.Errorf("%q: what is named is not asked", vendor)
		}
	}
	if !asksInstance(settings.PlatformSettings{InstanceMetadata: "http://169.254.169.254"}, t.TempDir()) {
		t.Error("where no firmware is to be seen, the service is not asked")
	}
	if asksInstance(settings.PlatformSettings{InstanceMetadata: "http://169.254.169.254", ExecutionEnv: "AWS_ECS_FARGATE"}, t.TempDir()) {
		t.Error("Fargate is asked for an instance")
	}
	if asksInstance(settings.PlatformSettings{InstanceNamed: true}, t.TempDir()) {
		t.Error("what is disabled is asked")
	}
}

func TestMachine(t *testing.T) {
	f := machine()
	if f.Kernel == "" || f.Machine == "" || !slices.Contains(f.IPv4["lo"], "127.0.0.1/8") {
		t.Errorf("got %+v", f)
	}
}

// TestFIPS has Envoys that tell their version.
func TestFIPS(t *testing.T) {
	own, err := settings.Parse(agenttest.Environment("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-west-2", "AWS_EC2_METADATA_DISABLED=1"), settings.Flags{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	envoy := func(script string) string {
		path := filepath.Join(t.TempDir(), "envoy")
		testenv.Script(t, path, "#!/bin/sh\n"+script+"\n")
		return path
	}
	for _, test := range []struct {
		name, envoy string
		want        bool
		says        string
		slow        int
	}{
		{"a FIPS build", envoy("echo 'envoy  version: 1234/1.34.13-appmesh.1/Clean/RELEASE/BoringSSL-FIPS'"), true, "", 50},
		{"a build without", agenttest.Envoys(t)[0], false, "", 50},
		{"one that cannot tell", envoy("exit 1"), false, "ask Envoy for its version: exit status 1", 50},
		{"one that hangs", envoy("exec sleep 1000"), false, "ask Envoy for its version", 0},
	} {
		t.Run("IMG-001 "+test.name, func(t *testing.T) {
			t.Parallel()
			found, err := Ask(t.Context(), own, Machine{Envoy: test.envoy, Slow: test.slow})
			if found.FIPS != test.want || (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %t, %v", found.FIPS, err)
			}
		})
	}
	t.Run("who named an endpoint asks no Envoy", func(t *testing.T) {
		if _, err := Ask(t.Context(), parse(t, newStandIn(t)), Machine{Envoy: "/nowhere"}); err != nil {
			t.Error(err)
		}
	})
}
