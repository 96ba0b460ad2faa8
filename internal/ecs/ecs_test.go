package ecs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/ecs"
)

// guide are the user guide's samples, as they are there.
func guide() []string { return []string{"fargate", "fargate-xray", "ec2", "ec2-xray"} }

func load(t testing.TB, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...) + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func read(t testing.TB, text []byte) *ecs.Definition {
	t.Helper()
	all, err := ecs.Read("task.json", text)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d definitions, %v", len(all), err)
	}
	return all[0]
}

func adapt(t testing.TB, d *ecs.Definition, o ecs.Options) (*ecs.Definition, []ecs.Change) {
	t.Helper()
	out, changes, err := d.Adapt(o)
	if err != nil {
		t.Fatal(err)
	}
	return out, changes
}

// lines are problems without their places; notes begin with a tilde.
func lines(all []ecs.Problem) (out []string) {
	for _, p := range all {
		if p.Note {
			p.Message = "~" + p.Message
		}
		out = append(out, p.Message)
	}
	return out
}

// only keeps what is not a note.
func only(all []ecs.Problem) []ecs.Problem {
	return slices.DeleteFunc(slices.Clone(all), func(p ecs.Problem) bool { return p.Note })
}

// paths are the places at which two documents differ.
func paths(at string, a, b any, found map[string]bool) {
	if x, ok := a.(map[string]any); ok {
		if y, ok := b.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(y)) {
				paths(strings.TrimPrefix(at+"."+k, "."), x[k], y[k], found)
			}
			for k := range x {
				if _, kept := y[k]; !kept {
					found["lost "+at+"."+k] = true
				}
			}
			return
		}
	}
	x, isX := a.([]any)
	y, isY := b.([]any)
	if isX && isY {
		for i := range y {
			var was any
			if i < len(x) {
				was = x[i]
			}
			paths(fmt.Sprintf("%s[%d]", at, i), was, y[i], found)
		}
		return
	}
	if !reflect.DeepEqual(a, b) {
		found[at] = true
	}
}

func TestGuide(t *testing.T) {
	t.Parallel()
	for _, name := range guide() {
		t.Run("ECS-001 ECS-017 only what must change changes: "+name, func(t *testing.T) {
			t.Parallel()
			d := read(t, load(t, "testdata", "guide", name))
			if got := only(d.Check()); len(got) != 1 || !strings.Contains(got[0].Message, "APPMESH_XDS_ENDPOINT") {
				t.Errorf("before: %v, want the missing endpoint alone", lines(got))
			}
			a, changes := adapt(t, d, ecs.Options{Endpoint: "control.internal:7071"})
			if got := only(a.Check()); len(got) > 0 {
				t.Errorf("after: %v", lines(got))
			}
			var before, after any
			if err := json.Unmarshal(d.JSON(), &before); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(a.JSON(), &after); err != nil {
				t.Fatal(err)
			}
			found := map[string]bool{}
			paths("", before, after, found)
			variable := 1
			if strings.HasSuffix(name, "xray") {
				variable = 2
			}
			want := []string{fmt.Sprintf("containerDefinitions[1].environment[%d]", variable), "containerDefinitions[1].image"}
			if diff := cmp.Diff(want, slices.Sorted(maps.Keys(found))); diff != "" {
				t.Errorf("what differs (-want +got):\n%s", diff)
			}
			if len(changes) != 2 {
				t.Errorf("%v, want two changes", changes)
			}
			again, more := adapt(t, read(t, a.JSON()), ecs.Options{Endpoint: "control.internal:7071"})
			if len(more) > 0 || string(again.JSON()) != string(a.JSON()) {
				t.Errorf("once more it changes: %v", more)
			}
		})
	}
	t.Run("ECS-009 numbers in texts are taken, and reported", func(t *testing.T) {
		t.Parallel()
		d := read(t, load(t, "testdata", "guide", "fargate-xray"))
		daemon := d.Containers[2]
		if daemon.CPU != 32 || daemon.MemoryReservation != 256 {
			t.Errorf("cpu %d, memoryReservation %d", daemon.CPU, daemon.MemoryReservation)
		}
		got := slices.DeleteFunc(lines(d.Check()), func(l string) bool { return !strings.Contains(l, "is the text") })
		if diff := cmp.Diff([]string{
			`~containerDefinitions.cpu is the text "32": ECS's API has a number there, and it is taken as one`,
			`~containerDefinitions.memoryReservation is the text "256": ECS's API has a number there, and it is taken as one`,
		}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if text := string(d.JSON()); !strings.Contains(text, `"cpu": 32`) || !strings.Contains(text, `"memoryReservation": 256`) || !strings.Contains(text, `"cpu": "512"`) {
			t.Errorf("written as\n%s", text)
		}
	})
	t.Run("ECS-010 memory of the proxy is not looked at", func(t *testing.T) {
		t.Parallel()
		text := strings.Replace(string(load(t, "testdata", "guide", "fargate")), `"memory": 500`, `"memory": 4`, 1)
		a, _ := adapt(t, read(t, []byte(text)), ecs.Options{Endpoint: "c:1"})
		if got := only(a.Check()); len(got) > 0 {
			t.Errorf("%v", lines(got))
		}
	})
}

// TestDeploy holds the task definitions of deploy/ecs against the checks: they have nothing to be said about.
func TestDeploy(t *testing.T) {
	t.Parallel()
	for _, name := range append(guide(), "gateway") {
		d := read(t, load(t, "..", "..", "deploy", "ecs", name))
		if got := d.Check(); len(got) > 0 {
			t.Errorf("%s: %v", name, lines(got))
		}
		a, changes := adapt(t, d, ecs.Options{Image: "IMAGE", Endpoint: "control.internal:7071", CASecret: "arn:aws:secretsmanager:us-east-1:111122223333:secret:evermesh-ca", Credentials: "arn:aws:secretsmanager:us-east-1:111122223333:secret:evermesh-key"})
		if len(changes) > 0 || string(a.JSON()) != string(d.JSON()) {
			t.Errorf("%s is not what is made of App Mesh's: %v", name, changes)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const secretKey = `"secrets": [{"name": "AWS_ACCESS_KEY_ID", "valueFrom": "k"}], `
	tests := []struct {
		name, base string
		edits      []string // what stands there, and what takes its place, in turn
		want       []string
	}{
		{"ECS-002 another user than the one that is left alone", "ec2", []string{`"user": "1337"`, `"user": "0"`}, []string{
			`envoy runs as user "0", and IgnoredUID is 1337: Envoy's own traffic would come back to it; set user to "1337"`,
		}},
		{"ECS-002 a group beside the user", "ec2", []string{`"user": "1337"`, `"user": "1337:1337"`}, nil},
		{"ECS-002 the user as a number", "ec2", []string{`"user": "1337"`, `"user": 1337`}, []string{
			`~containerDefinitions.user is the number 1337: ECS's API has a text there, and it is taken as one`,
		}},
		{"ECS-002 not essential", "ec2", []string{`"essential": true,` + "\n      \"user\"", `"essential": false,` + "\n      \"user\""}, []string{
			`envoy is not essential: the task would go on without its proxy; set essential to true`,
		}},
		{"ECS-002 BP-008 no health check", "ec2", []string{`"healthCheck": {`, `"other": {`}, []string{
			`envoy has no health check, and nothing can wait for it: add {"command": ["CMD-SHELL", "curl -s http://localhost:9901/server_info | grep state | grep -q LIVE"], "startPeriod": 10, "interval": 5, "timeout": 2, "retries": 3}`,
		}},
		{"ECS-003 BP-006 an application that does not wait", "ec2", []string{`"condition": "HEALTHY"`, `"condition": "START"`}, []string{
			`app does not wait for envoy: add {"containerName": "envoy", "condition": "HEALTHY"} to its dependsOn`,
		}},
		{"ECS-003 a name that is none", "ec2", []string{`"containerName": "envoy",` + "\n          \"condition\"", `"containerName": "proxy",` + "\n          \"condition\""}, []string{
			`app depends on proxy, which is no container of the task`,
			`app does not wait for envoy: add {"containerName": "envoy", "condition": "HEALTHY"} to its dependsOn`,
		}},
		{"ECS-004 nobody's proxy", "ec2", []string{`APPMESH_RESOURCE_ARN`, `APPMESH_RESOURCE`}, []string{
			`envoy does not say whose proxy it is: set APPMESH_RESOURCE_ARN to the ARN of the virtual node or gateway`,
		}},
		{"ECS-004 the proxy of a route", "ec2", []string{`mesh/apps/virtualNode/serviceB`, `mesh/apps/virtualRouter/serviceB`}, []string{
			`envoy is the proxy of "mesh/apps/virtualRouter/serviceB", which names no virtual node or gateway: want an ARN, or mesh/M/virtualNode/N`,
		}},
		{"ECS-005 Fargate without credentials", "fargate", []string{`"taskRoleArn"`, `"other"`, `"secrets": [`, `"others": [`}, []string{
			`envoy has no credentials: Fargate has no instance role; set taskRoleArn, or give the container a key from a secret`,
		}},
		{"ECS-005 EC2 without a task role", "ec2", []string{`"taskRoleArn"`, `"other"`, `"secrets": [`, `"others": [`}, []string{
			`~envoy signs with the credentials of the instance role, if the task may reach the instance's metadata, and the control plane has to know them`,
		}},
		{"ECS-006 another network mode", "ec2", []string{`"networkMode": "awsvpc"`, `"networkMode": "bridge"`}, []string{
			`networkMode is "bridge": a task whose traffic is redirected needs a network namespace of its own; set it to awsvpc`,
		}},
		{"ECS-007 too little memory on Fargate", "fargate", []string{`"memory": "1024"`, `"memory": "0.5 GB"`}, []string{
			`memory is "0.5 GB": a task with a proxy needs at least 1024 MiB on Fargate`,
		}},
		{"ECS-007 memory in GB", "fargate", []string{`"memory": "1024"`, `"memory": "1GB"`}, nil},
		{"ECS-007 no processor on Fargate", "fargate", []string{`"cpu": "512",`, ``}, []string{`cpu is missing: Fargate asks for it; the guide's samples have 512`}},
		{"ECS-007 a low port on Fargate", "fargate", []string{`"containerPort": 9080`, `"containerPort": 80`, `"value": "9080"`, `"value": "80"`}, []string{
			`app has the port 80: Fargate takes ports above 1024 alone`, `AppPorts has 80: Fargate takes ports above 1024 alone`,
		}},
		{"ECS-007 a low port on EC2", "ec2", []string{`"containerPort": 9080`, `"containerPort": 80`, `"hostPort": 9080`, `"hostPort": 80`, `"value": "9080"`, `"value": "80"`}, nil},
		{"ECS-008 the X-Ray daemon waits for nobody, being the ignored user", "ec2-xray", nil, nil},
		{"ECS-008 an X-Ray daemon of another user", "ec2-xray", []string{`"image": "amazon/aws-xray-daemon",` + "\n      \"user\": \"1337\"", `"image": "amazon/aws-xray-daemon",` + "\n      \"user\": \"0\""}, []string{
			`xray-daemon does not wait for envoy: add {"containerName": "envoy", "condition": "HEALTHY"} to its dependsOn`,
		}},
		{"ECS-013 a gateway whose traffic is redirected", "ec2", []string{`virtualNode/serviceB`, `virtualGateway/ingress`, `"name": "app"`, `"name": "evermesh-ca2"`}, []string{
			`envoy is a virtual gateway's proxy, and must not have its traffic redirected: remove proxyConfiguration`,
			`envoy is a virtual gateway's proxy: remove user, which only redirection needs`,
			`~evermesh-ca2 runs beside a virtual gateway's proxy, which stands alone as a rule`,
		}},
		{"ECS-013 a gateway's own ports may be low", "gateway", []string{`"containerPort": 8080`, `"containerPort": 443`}, nil},
		{"ECS-016 ICPT-027 TRBL-014 a file system that is mounted through Envoy", "ec2", []string{`"value": "22,2049"`, `"value": "22"`, `"name": "evermesh-ca"` + "\n    }\n", `"name": "data", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}` + "\n"}, []string{
			`the task has an EFS volume, which ECS mounts before Envoy runs: add 2049 to EgressIgnoredPorts`,
		}},
		{"ECS-020 nobody is left alone", "ec2", []string{`"name": "IgnoredUID"`, `"name": "ignoredUID"`}, []string{
			`the property "ignoredUID" is not known: it is written "IgnoredUID"`, `IgnoredUID is missing: set it to the user of envoy, such as 1337`,
		}},
		{"ECS-020 no port to arrive at", "ec2", []string{`"name": "ProxyIngressPort"`, `"name": "Ingress"`}, []string{
			`the property "Ingress" is not known: remove it, or choose from IgnoredUID, IgnoredGID, ProxyIngressPort, ProxyEgressPort, AppPorts, EgressIgnoredIPs, EgressIgnoredPorts`,
			`ProxyIngressPort is missing: set it to 15000`,
		}},
		{"ECS-020 ports where Envoy is not", "ec2", []string{`"15000"`, `"15006"`, `"15001"`, `15011`}, []string{
			`~proxyConfiguration.properties.value is the number 15011: ECS's API has a text there, and it is taken as one`,
			`ProxyIngressPort is 15006, where Envoy does not listen: set it to 15000`, `ProxyEgressPort is 15011, where Envoy does not listen: set it to 15001`,
		}},
		{"ECS-020 no ports of the application", "ec2", []string{`"value": "9080"`, `"value": " , "`}, []string{
			`AppPorts is missing: nothing that arrives would go through Envoy; list the ports of the virtual node's listeners`,
		}},
		{"ECS-020 a property twice", "ec2", []string{`"name": "ProxyEgressPort"`, `"name": "ProxyIngressPort"`}, []string{
			`the property ProxyIngressPort stands twice: remove one of them`, `ProxyEgressPort is missing: set it to 15001`,
		}},
		{"ECS-020 no number", "ec2", []string{`"value": "9080"`, `"value": "9080,http"`}, []string{`AppPorts is "http": want numbers, separated by commas`}},
		{"ICPT-004 ICPT-030 the addresses of metadata are not listed", "ec2", []string{`"169.254.170.2,169.254.169.254"`, `"10.0.0.0/8"`}, []string{
			`~EgressIgnoredIPs does not list 169.254.170.2,169.254.169.254, the metadata and credentials: ECS's agent adds it`,
		}},
		{"ICPT-001 another type", "ec2", []string{`"type": "APPMESH"`, `"type": "OTHER"`}, []string{`type "OTHER" of the proxy configuration is not known: set it to APPMESH`}},
		{"ICPT-001 another container", "ec2", []string{`"type": "APPMESH",` + "\n    \"containerName\": \"envoy\"", `"type": "APPMESH",` + "\n    \"containerName\": \"proxy\""}, []string{
			`containerName "proxy" of the proxy configuration is no container of the task: envoy looks like the one with Envoy`,
		}},
		{"more ports than one rule takes", "ec2", []string{`"value": "22,2049"`, `"value": "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"`}, []string{
			`~EgressIgnoredPorts lists 16 ports, of which App Mesh's plugin takes the first 15; evermesh-cni takes all`,
		}},
		{"AGENT-013 killed while it drains", "ec2", []string{`"stopTimeout": 30`, `"stopTimeout": 20`}, []string{`envoy is killed after 20 s, and drains for 20 s: set stopTimeout to 30`}},
		{"AGENT-013 ECS's own time is too short", "ec2", []string{`"stopTimeout": 30,`, ``, `"value": "20"`, `"value": "110"`}, []string{`envoy is killed after 30 s, and drains for 110 s: set stopTimeout to 120`}},
		{"nothing is redirected", "ec2", []string{`"proxyConfiguration"`, `"other"`}, []string{
			`there is no proxyConfiguration: nothing leads the task's traffic through Envoy; add one, or set EVERMESH_INTERCEPTION=none`,
		}},
		{"nothing is redirected, on purpose", "ec2", []string{`"proxyConfiguration"`, `"other"`, `"LISTENER_DRAIN_WAIT_TIME_S"`, `"EVERMESH_INTERCEPTION"`, `"value": "20"`, `"value": "none"`}, nil},
		{"no control plane", "ec2", []string{`APPMESH_XDS_ENDPOINT`, `APPMESH_XDS`}, []string{
			`envoy has no APPMESH_XDS_ENDPOINT: it would look for App Mesh itself; set it to host:port of the control plane`,
		}},
		{"no region", "ec2", []string{`"AWS_REGION"`, `"REGION"`}, []string{
			`~envoy signs for the region that ECS or the instance tells it: give it AWS_REGION where the control plane has another`,
		}},
		{"the region of the resource", "ec2", []string{`"AWS_REGION"`, `"REGION"`, `"mesh/apps`, `"arn:aws:appmesh:us-east-1:111122223333:mesh/apps`}, nil},
		{"two containers of one name", "ec2", []string{`"name": "app"`, `"name": "evermesh-ca"`}, []string{`the name evermesh-ca stands for two containers: rename one of them`}},
		{"an endpoint from a secret", "ec2", []string{`"secrets": [`, secretKey + `"x": [`, `{"name": "AWS_ACCESS_KEY_ID"`, `{"name": "APPMESH_XDS_ENDPOINT", "valueFrom": "e"}, {"name": "AWS_ACCESS_KEY_ID"`, `"name": "APPMESH_XDS_ENDPOINT",` + "\n", `"name": "X",` + "\n"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := string(load(t, "..", "..", "deploy", "ecs", tt.base))
			for i := 0; i < len(tt.edits); i += 2 {
				if !strings.Contains(text, tt.edits[i]) {
					t.Fatalf("%s has no %s", tt.base, tt.edits[i])
				}
				text = strings.Replace(text, tt.edits[i], tt.edits[i+1], 1)
			}
			got := read(t, []byte(text)).Check()
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, p := range got {
				if !strings.HasPrefix(p.Where, "task.json:") || strings.Contains(p.Where, ":0") {
					t.Errorf("%s is no place", p.Where)
				}
			}
		})
	}
}

func TestNoEnvoy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"containerDefinitions": [{"name": "app"}]}`:                                                   "no container is a proxy: add the one with Envoy, with APPMESH_RESOURCE_ARN in its environment",
		`{"containerDefinitions": [{"name": "app"}], "proxyConfiguration": {"containerName": "envoy"}}`: `containerName "envoy" of the proxy configuration is no container of the task: name the one that runs Envoy`,
	} {
		d := read(t, []byte(text))
		a, changes := adapt(t, d, ecs.Options{Endpoint: "c:1"})
		if diff := cmp.Diff([]string{want}, lines(a.Check())); diff != "" || len(changes) > 0 {
			t.Errorf("%s: changes %v, (-want +got):\n%s", text, changes, diff)
		}
	}
}

func TestAdapt(t *testing.T) {
	t.Parallel()
	edited := func(edits ...string) *ecs.Definition {
		text := strings.NewReplacer(edits...).Replace(string(load(t, "testdata", "guide", "fargate")))
		return read(t, []byte(text))
	}
	tests := []struct {
		name    string
		d       *ecs.Definition
		options ecs.Options
		want    []string
	}{
		{"an image of one's own", edited("840364872350.dkr.ecr.us-west-2.amazonaws.com/aws-appmesh-envoy:v1.34.13.1-prod", "mine"), ecs.Options{}, nil},
		{"the image that is asked for", edited("840364872350.dkr.ecr.us-west-2.amazonaws.com/aws-appmesh-envoy:v1.34.13.1-prod", "mine"), ecs.Options{Image: "other:1"}, []string{
			"envoy.image is other:1; it was mine",
		}},
		{"AGENT-013 time to drain", edited(`"user": "1337"`, `"user": "1337", "stopTimeout": 20`), ecs.Options{Image: "i"}, []string{
			"envoy.image is i; it was 840364872350.dkr.ecr.us-west-2.amazonaws.com/aws-appmesh-envoy:v1.34.13.1-prod",
			"envoy.stopTimeout is 30, which is the drain time and 10 s; it was 20",
		}},
		{"ECS-016 ICPT-027 TRBL-014 a file system", edited(`"networkMode"`, `"volumes": [{"name": "d", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}], "networkMode"`), ecs.Options{Image: "i"}, []string{
			"envoy.image is i; it was 840364872350.dkr.ecr.us-west-2.amazonaws.com/aws-appmesh-envoy:v1.34.13.1-prod",
			"EgressIgnoredPorts is 22,2049: ECS mounts EFS volumes before Envoy runs",
		}},
		{"ECS-015 a certificate and a key from secrets", edited(), ecs.Options{Image: "i", CASecret: "arn:ca", Credentials: "arn:key"}, []string{
			"envoy.image is i; it was 840364872350.dkr.ecr.us-west-2.amazonaws.com/aws-appmesh-envoy:v1.34.13.1-prod",
			"the container evermesh-ca writes the CA of the secret arn:ca to the volume of that name, before envoy starts",
			"envoy has the variable APPMESH_XDS_CA_FILE=/evermesh-ca/ca.pem",
			"envoy has the variable AWS_ACCESS_KEY_ID from the secret arn:key:AccessKeyId::",
			"envoy has the variable AWS_SECRET_ACCESS_KEY from the secret arn:key:SecretAccessKey::",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			before := string(tt.d.JSON())
			a, changes := adapt(t, tt.d, tt.options)
			var got []string
			for _, c := range changes {
				got = append(got, c.Change)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if string(tt.d.JSON()) != before {
				t.Error("the definition itself was changed")
			}
			if _, more := adapt(t, read(t, a.JSON()), tt.options); len(more) > 0 {
				t.Errorf("once more it changes: %v", more)
			}
		})
	}
}

// Where there is no ECS, nothing tells the region.
func TestOutside(t *testing.T) {
	t.Parallel()
	d := read(t, load(t, "testdata", "guide", "ec2"))
	if diff := cmp.Diff([]string{"envoy has no AWS_REGION, and outside of ECS nothing tells it: set it to the control plane's"}, lines(d.CheckOutside())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	a, _ := adapt(t, d, ecs.Options{Region: "eu-west-1"})
	if got := a.CheckOutside(); len(got) > 0 {
		t.Errorf("%v", lines(got))
	}
}

func TestListeners(t *testing.T) {
	t.Parallel()
	text := strings.Replace(string(load(t, "testdata", "guide", "ec2")), `"value": "9080"`, `"value": "9080, 9081"`, 1)
	got := lines(read(t, []byte(text)).CheckListeners([]int{9080, 9090}))
	if diff := cmp.Diff([]string{
		"AppPorts lacks 9090, where the virtual node has a listener: what arrives there would not go through Envoy; add it",
		"AppPorts has 9081, where the virtual node has no listener: connections that arrive there would be refused; remove it",
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	one := string(load(t, "testdata", "guide", "ec2"))
	for _, tt := range []struct {
		name, text string
		count      int
		err        string
	}{
		{"one", one, 1, ""},
		{"a list", "[" + one + "," + one + "]", 2, ""},
		{"several", one + "---\n" + one, 2, ""},
		{"the answer of describe", `{"taskDefinition": ` + strings.Replace(one, "{", `{"taskDefinitionArn": "arn", "revision": 3, "status": "ACTIVE", "requiresAttributes": [], "compatibilities": ["EC2"], "registeredAt": 1.5, `, 1) + `, "tags": [{"key": "a", "value": "b"}]}`, 1, ""},
		{"YAML", "family: a\ncontainerDefinitions:\n- name: envoy\n  cpu: '3'\n", 1, ""},
		{"nothing", "", 0, "f: holds no task definition"},
		{"an empty list", "[]", 0, "f: holds no task definition"},
		{"no JSON", "{", 0, "f:1: not valid JSON or YAML: "},
		{"a text", "hello", 0, "f:1: is no task definition: want the input of "},
		{"a service", `{"serviceName": "a"}`, 0, "f:1: is no task definition: want the input of "},
		{"of another form", `{"containerDefinitions": "none"}`, 0, "f:1: ECS would not take it: containerDefinitions is a string, want a list"},
		{"a number that is none", `{"containerDefinitions": [{"cpu": "many"}]}`, 0, "f:1: ECS would not take it: containerDefinitions.cpu is a string, want a whole number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all, err := ecs.Read("f", []byte(tt.text))
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
					t.Errorf("got %v, want %s…", err, tt.err)
				}
				return
			}
			if err != nil || len(all) != tt.count {
				t.Fatalf("%d, %v", len(all), err)
			}
			for _, answered := range []string{"taskDefinitionArn", "revision", "registeredAt", "compatibilities"} {
				if strings.Contains(string(all[0].JSON()), `"`+answered+`"`) {
					t.Errorf("%s is still there", answered)
				}
			}
			if strings.Contains(tt.text, "tags") && !strings.Contains(string(all[0].JSON()), `"tags"`) {
				t.Error("the tags are lost")
			}
		})
	}
}

// FuzzDefinition goes all ways with any text.
func FuzzDefinition(f *testing.F) {
	for _, name := range guide() {
		f.Add(load(f, "testdata", "guide", name))
	}
	f.Add([]byte(`{"containerDefinitions": [{"name": "envoy", "image": "aws-appmesh-envoy", "environment": [null], "secrets": {}}], "proxyConfiguration": {"properties": [{}]}, "volumes": [{"efsVolumeConfiguration": {}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := ecs.Read("f", text)
		if err != nil {
			return
		}
		for _, d := range all {
			d.Check()
			a, _, err := d.Adapt(ecs.Options{Image: "i", Endpoint: "c:1", CASecret: "s", Credentials: "k"})
			if err != nil {
				t.Fatalf("%v of\n%s", err, d.JSON())
			}
			a.Check()
			a.CheckListeners([]int{80})
			doc, _ := a.Compose("")
			if _, err := json.Marshal(doc); err != nil {
				t.Fatal(err)
			}
			a.Env()
			if _, err := ecs.Read("f", a.JSON()); err != nil {
				t.Fatalf("what was written is not read: %v\n%s", err, a.JSON())
			}
		}
	})
}
