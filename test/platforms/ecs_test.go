//go:build linux

package platforms

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"

	"github.com/evermesh/evermesh/internal/ecs"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// asked finds what Compose takes from the environment of whoever runs it, and refuses to start without.
var asked = regexp.MustCompile(`^\$\{(\w+):\?.*\}$`)

// composeOf is the Compose file that a definition becomes, with the variables of its secrets, as a project of this engine.
func composeOf(t *testing.T, d *ecs.Definition, variables map[string]string) *project {
	t.Helper()
	doc, problems := d.Compose("registry.example/route-manager:1")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	p := &project{compose: &compose{}, prefix: "ecs-", services: map[string]*ground.Process{}}
	if err := json.Unmarshal(text, p.compose); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Services {
		for name, value := range s.Environment {
			if m := asked.FindStringSubmatch(value); m != nil {
				if variables[m[1]] == "" {
					t.Fatalf("nobody gives %s", m[1])
				}
				s.Environment[name] = variables[m[1]]
				continue
			}
			s.Environment[name] = strings.ReplaceAll(value, "$$", "$")
		}
		for i := range s.Command {
			s.Command[i] = strings.ReplaceAll(s.Command[i], "$$", "$")
		}
		for name, on := range s.DependsOn {
			if on.Condition == "service_started" { // as whoever shares its network waits for it
				delete(s.DependsOn, name)
			}
		}
		if h := s.Healthcheck; h != nil && h.Test[0] == "CMD-SHELL" {
			h.Test = []string{"CMD", "/bin/sh", "-c", h.Test[1]}
		}
	}
	return p
}

// The guide's task definition runs on a Docker host, as `evermesh ecs --to compose` makes a file of it: each container from the
// folder of its image, with the capabilities and the user that the file gives it.
func TestTaskDefinitionOnDocker(t *testing.T) {
	ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait)
	defer cancel()
	control, err := world.Control(ctx, stage.ControlOptions{Name: "ecs-control", Ports: []int{7270, 7271, 7272}})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Stop(context.WithoutCancel(ctx))
	mesh := aws.String("apps")
	if _, err := control.AppMesh.CreateMesh(ctx, &appmesh.CreateMeshInput{MeshName: mesh, Spec: &types.MeshSpec{EgressFilter: &types.EgressFilter{Type: types.EgressFilterTypeDropAll}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := control.AppMesh.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{MeshName: mesh, VirtualNodeName: aws.String("serviceB"), Spec: &types.VirtualNodeSpec{
		Listeners:        []types.Listener{{PortMapping: &types.PortMapping{Port: aws.Int32(9080), Protocol: types.PortProtocolHttp}}},
		ServiceDiscovery: &types.ServiceDiscoveryMemberDns{Value: types.DnsServiceDiscovery{Hostname: aws.String("serviceb.apps.local")}},
	}}); err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile(filepath.Join(world.repository, "internal/ecs/testdata/guide/ec2.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(sample), `"image": "appImage"`, `"image": "http-echo", "command": ["-listen=:9080", "-text=app"]`, 1)
	all, err := ecs.Read("ec2.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := all[0].Adapt(ecs.Options{Image: "registry.example/envoy:1", Endpoint: control.XDS, Region: control.Region, CASecret: "arn:ca", Credentials: "arn:key"})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(control.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	p := composeOf(t, d, map[string]string{"CA": string(ca), "AWS_ACCESS_KEY_ID": control.Key.AccessKeyID, "AWS_SECRET_ACCESS_KEY": control.Key.SecretAccessKey})
	defer func() {
		for _, process := range p.services {
			if t.Failed() {
				dump(t, process)
			}
		}
		if err := p.down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	if err := p.up(ctx, "appName"); err != nil {
		t.Fatal(err)
	}
	t.Run("ECS-001 ICPT-030 BP-008 what arrives at the task goes through its Envoy", func(t *testing.T) {
		h, err := p.host("appName")
		if err != nil {
			t.Fatal(err)
		}
		client := newHost(t, "ecs-caller").Client()
		defer client.CloseIdleConnections()
		var answer *http.Response
		if err := stage.Until(ctx, "the application answers", func(context.Context) bool {
			answer, err = client.Get(fmt.Sprintf("http://%s:9080/", h.Addr()))
			if err == nil {
				_ = answer.Body.Close()
			}
			return err == nil && answer.StatusCode == http.StatusOK
		}); err != nil {
			t.Fatal(err)
		}
		if answer.Header.Get("X-App") != "app" || answer.Header.Get("Server") != "envoy" {
			t.Errorf("answered with %v", answer.Header)
		}
	})
}
