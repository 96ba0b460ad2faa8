//go:build linux

package images

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/stage"
)

// Each image has the programs that it is for, and no others but those that are named here.
func TestContents(t *testing.T) {
	ready(t)
	want := map[string][]string{
		"evermeshd":     {"/usr/bin/evermesh", "/usr/bin/evermeshd"},
		"envoy":         {"/bin/busybox", "/usr/bin/agent", "/usr/bin/curl", "/usr/bin/envoy"},
		"route-manager": {"/opt/cni/bin/aws-appmesh", "/usr/bin/evermesh-agent", "/usr/sbin/nft"},
	}
	for _, image := range Names() {
		t.Run("IMG-008 programs of "+image, func(t *testing.T) {
			root := filepath.Join(world.roots.Dir, image)
			var programs []string
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				place := strings.TrimPrefix(path, root)
				if err != nil || place == "/dev" || place == "/proc" {
					return cmpSkip(err)
				}
				info, err := d.Info()
				if err != nil {
					return err
				}
				if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 || info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
					t.Errorf("%s has mode %v", place, info.Mode())
				}
				if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !strings.Contains(place, "/lib") {
					programs = append(programs, place)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if slices.Sort(programs); !slices.Equal(programs, want[image]) {
				t.Errorf("programs are %v, want %v", programs, want[image])
			}
		})
	}
}

func cmpSkip(err error) error {
	if err != nil {
		return err
	}
	return filepath.SkipDir
}

// The Dockerfiles do what the tests do: the same script for the same image; and what they start is there.
func TestDockerfiles(t *testing.T) {
	ready(t)
	repository, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	entry, packages := regexp.MustCompile(`(?m)^ENTRYPOINT \["([^"]+)"`), regexp.MustCompile(`\./cmd/\S+`)
	for _, image := range Names() {
		text, err := os.ReadFile(filepath.Join(repository, "deploy", "images", image, "Dockerfile"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "RUN /rootfs.sh "+image+" /parts /rootfs\n") {
			t.Errorf("%s: the files of the image are put together in another way", image)
		}
		for _, name := range packages.FindAllString(string(text), -1) {
			if _, err := os.Stat(filepath.Join(repository, name)); err != nil {
				t.Errorf("%s builds %v", image, err)
			}
		}
		start := entry.FindStringSubmatch(string(text))
		if start == nil {
			t.Fatalf("%s starts nothing", image)
		}
		if _, err := os.Stat(filepath.Join(world.roots.Dir, image, start[1])); err != nil {
			t.Errorf("%s starts %v", image, err)
		}
		// Nothing of a shell: instructions are lists.
		if strings.Contains(string(text), "\nCMD ") && !strings.Contains(string(text), "\nCMD [") {
			t.Errorf("%s needs a shell for its command", image)
		}
	}
}

// A workload with the images of route manager and Envoy beside it, and a control plane that is an image too.
func TestWorkload(t *testing.T) {
	ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait)
	defer cancel()
	control, err := world.Control(ctx, stage.ControlOptions{})
	if err != nil {
		t.Fatal(err)
	}
	web, caller := newHost(t, "web"), newHost(t, "caller")
	if _, err := world.App(web, stage.App{Name: "web", Listen: []string{":9080"}}); err != nil {
		t.Fatal(err)
	}
	api := control.AppMesh
	if _, err := api.CreateMesh(ctx, &appmesh.CreateMeshInput{MeshName: aws.String("shop")}); err != nil {
		t.Fatal(err)
	}
	_, err = api.CreateVirtualNode(ctx, &appmesh.CreateVirtualNodeInput{MeshName: aws.String("shop"), VirtualNodeName: aws.String("web"), Spec: &types.VirtualNodeSpec{
		Listeners:        []types.Listener{{PortMapping: &types.PortMapping{Port: aws.Int32(9080), Protocol: types.PortProtocolHttp}}},
		ServiceDiscovery: &types.ServiceDiscoveryMemberDns{Value: types.DnsServiceDiscovery{Hostname: aws.String("web.example")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(control.CAFile)
	if err == nil {
		err = os.WriteFile(filepath.Join(world.roots.Dir, "envoy", "etc", "ca.pem"), ca, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	const uid = 1337
	owner := []string{fmt.Sprintf("APPMESH_IGNORE_UID=%d", uid)}
	if world.Owner().Mark != 0 {
		owner = world.Owner().Env()
	}
	t.Run("ICPT-024 ICPT-025 the route manager redirects, and ends", func(t *testing.T) {
		out, err := web.Run(ctx, in("route-manager", 0, append([]string{
			"PATH=/usr/sbin:/usr/bin", "APPMESH_START_ENABLED=1", "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_APP_PORTS=9080",
			"APPMESH_EGRESS_IGNORED_IP=169.254.169.254", "APPMESH_EGRESS_IGNORED_PORTS=22",
		}, owner...), "/usr/bin/evermesh-agent", "intercept"))
		if err != nil || !strings.Contains(out, "=== Enabling routing ===") {
			t.Fatalf("%v\n%s", err, out)
		}
	})
	env := append([]string{
		"PATH=/usr/bin:/bin", "HOME=/var/lib/envoy", "APPMESH_RESOURCE_ARN=mesh/shop/virtualNode/web", "APPMESH_XDS_ENDPOINT=" + control.XDS, "APPMESH_XDS_CA_FILE=/etc/ca.pem",
		"AWS_REGION=" + control.Region, "AWS_ACCESS_KEY_ID=" + control.Key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + control.Key.SecretAccessKey,
		"AWS_EC2_METADATA_DISABLED=true", "ENVOY_CONCURRENCY=1", "ENVOY_LOG_LEVEL=warning", "LISTENER_DRAIN_WAIT_TIME_S=5", "APPNET_AGENT_ADMIN_MODE=uds",
	}, world.Owner().Env()...)
	agent := start(t, web, uid, in("envoy", uid, env, "/usr/bin/agent"))
	t.Run("ECS-002 AGENT-042 IMG-008 the health check of task definitions passes", func(t *testing.T) {
		err := stage.Until(ctx, "the check passes", func(context.Context) bool {
			_, err := web.Run(ctx, in("envoy", uid, env, "/bin/sh", "-c", "curl -s http://localhost:9901/server_info | grep state | grep -q LIVE"))
			return err == nil
		})
		if err != nil {
			log, _ := os.ReadFile(agent.Log())
			t.Fatalf("%v\n%s", err, log)
		}
	})
	t.Run("a readiness command and a hook of pods pass", func(t *testing.T) {
		if out, err := web.Run(ctx, in("envoy", uid, env, "/usr/bin/agent", "-envoyReadiness")); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := web.Run(ctx, in("envoy", uid, env, "/bin/sh", "-c", "sleep 0")); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a request passes through it", func(t *testing.T) {
		client := caller.Client()
		defer client.CloseIdleConnections()
		answer, err := client.Get(fmt.Sprintf("http://%s:9080/", web.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var seen stage.Seen
		if err := json.NewDecoder(answer.Body).Decode(&seen); err != nil || answer.StatusCode != http.StatusOK || seen.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms") == "" {
			t.Errorf("answered %d, %v; the application saw %v", answer.StatusCode, err, seen.Header)
		}
	})
	t.Run("what Envoy has is kept in the image's folder for it", func(t *testing.T) {
		err := stage.Until(ctx, "it is kept", func(context.Context) bool {
			kept, err := os.ReadDir(filepath.Join(world.roots.Dir, "envoy", "var", "lib", "evermesh-agent"))
			return err == nil && len(kept) > 0
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("AGENT-046 SIGTERM ends it with 0", func(t *testing.T) {
		if err := agent.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// The control plane's image serves, as its own user, from a folder that is that user's.
func TestControlPlane(t *testing.T) {
	ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	h := newHost(t, "control")
	p := start(t, h, 65532, in("evermeshd", 65532, []string{"HOME=/var/lib/evermesh"}, "/usr/bin/evermeshd", "serve", "--data-dir", "/var/lib/evermesh/data"))
	client := h.Client()
	defer client.CloseIdleConnections()
	err := stage.Until(ctx, "it is ready", func(context.Context) bool {
		answer, err := client.Get("http://127.0.0.1:7072/readyz")
		if err != nil {
			return false
		}
		return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
	})
	if err != nil {
		log, _ := os.ReadFile(p.Log())
		t.Fatalf("%v\n%s", err, log)
	}
	if out, err := h.Run(ctx, in("evermeshd", 65532, []string{"HOME=/var/lib/evermesh"}, "/usr/bin/evermesh", "env", "--data-dir", "/var/lib/evermesh/data")); err != nil || !strings.Contains(out, "AWS_ENDPOINT_URL") {
		t.Errorf("%v: %s", err, out)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}
