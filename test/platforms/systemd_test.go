//go:build linux

package platforms

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"github.com/aws/aws-sdk-go-v2/service/appmesh/types"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// The units are what systemd takes, and are shut in.
func TestUnits(t *testing.T) {
	ready(t)
	root := t.TempDir()
	install := exec.Command(filepath.Join(world.repository, "deploy/systemd/install.sh"))
	install.Env = append(os.Environ(), "DESTDIR="+root)
	for range 2 { // a second time changes nothing
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		install = &exec.Cmd{Path: install.Path, Args: install.Args, Env: install.Env}
	}
	if info, err := os.Stat(filepath.Join(root, "etc/evermesh/agent.env")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("agent.env, which may hold keys: %v, %v", info, err)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("this machine has no systemd-analyze")
	}
	// What every system has, as far as systemd-analyze asks for it.
	for _, name := range []string{"sysinit.target", "basic.target", "shutdown.target", "multi-user.target", "network.target", "network-online.target", "umount.target", "-.slice", "system.slice"} {
		if err := os.WriteFile(filepath.Join(root, "etc/systemd/system", name), []byte("[Unit]\nDescription=x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, most := range map[string]string{"evermesh-agent": "20", "evermesh-intercept": "45"} {
		file := filepath.Join(root, "etc/systemd/system", name+".service")
		t.Run("EC2-007 "+name, func(t *testing.T) {
			out, err := exec.Command(analyze, "verify", "--man=no", "--root="+root, file).CombinedOutput()
			if err != nil || strings.Contains(string(out), "Unknown") {
				t.Errorf("verify: %v: %s", err, out)
			}
			out, err = exec.Command(analyze, "security", "--offline=true", "--threshold="+most, "--no-pager", file).CombinedOutput()
			if err != nil {
				t.Errorf("security: %v: %s", err, out)
			}
		})
	}
}

// apps is the mesh of the guide's scenario, once it has two versions.
const apps = `{"meshName": "apps"}
{"meshName": "apps", "virtualNodeName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "serviceb.apps.local"}}}}
{"meshName": "apps", "virtualNodeName": "serviceBv2", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "servicebv2.apps.local"}}}}
{"meshName": "apps", "virtualNodeName": "serviceA", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "servicea.apps.local"}}, "backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}]}}
{"meshName": "apps", "virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}]}}
{"meshName": "apps", "virtualServiceName": "serviceb.apps.local", "spec": {"provider": {"virtualRouter": {"virtualRouterName": "serviceB"}}}}
{"meshName": "apps", "virtualServiceName": "servicea.apps.local", "spec": {"provider": {"virtualNode": {"virtualNodeName": "serviceA"}}}}
{"meshName": "apps", "virtualRouterName": "serviceB", "routeName": "serviceB", "spec": {"http2Route": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "serviceB", "weight": 75}, {"virtualNode": "serviceBv2", "weight": 25}]}}}}
`

// answers counts who answers n requests to the URL, by HTTP/2; what fails is counted as its error.
func answers(client *http.Client, url string, n int) map[string]int {
	count := map[string]int{}
	for range n {
		resp, err := client.Get(url)
		if err != nil {
			count[err.Error()]++
			continue
		}
		who := resp.Header.Get("X-App")
		if resp.StatusCode != http.StatusOK {
			who = resp.Status
		}
		count[who]++
		_ = resp.Body.Close() // nothing is read of it
	}
	return count
}

// h2c is an HTTP/2 client on the host, which begins so without being asked to.
func h2c(h *ground.Host) *http.Client {
	tr := &http.Transport{DialContext: h.Dial, Protocols: &http.Protocols{}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: tr}
}

// files are those of a machine, but for what only tests have there.
func (m *machine) files(t *testing.T) (all []string) {
	t.Helper()
	err := filepath.WalkDir(m.root, func(path string, _ fs.DirEntry, err error) error {
		place := strings.TrimPrefix(path, m.root)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"/proc", "/dev", "/tmp", "/srv", "/usr"}, place) {
			return fs.SkipDir
		}
		// What tools for users keep of the state before.
		if !strings.HasSuffix(place, "-") && place != "/etc/.pwd.lock" {
			all = append(all, place)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// rules are what interception has left on a host.
func rules(t *testing.T, h *ground.Host) string {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.Run(t.Context(), ground.Command{Name: "nft", Path: nft, Args: []string{"list", "ruleset"}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// paste runs blocks of the page on the machine, in a folder that has deploy, bin, ca.pem and credentials.
func (m *machine) paste(t *testing.T, replace *strings.Replacer, blocks ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	const dir = "/srv/evermesh"
	script := replace.Replace("set -euo pipefail\ncd " + dir + "\n" + strings.Join(blocks, "\n"))
	b := m.box("/bin/bash", "-c", script)
	b.Mounts = append(b.Mounts,
		volume{Source: filepath.Join(world.repository, "deploy"), Target: dir + "/deploy", ReadOnly: true},
		volume{Source: filepath.Join(world.roots.Dir, "envoy/usr/bin/agent"), Target: dir + "/bin/evermesh-agent", ReadOnly: true},
		volume{Source: filepath.Join(world.roots.Dir, "envoy/usr/bin/envoy"), Target: dir + "/bin/envoy", ReadOnly: true},
		volume{Source: m.shims, Target: m.shims},
	)
	c, err := b.command("page", []string{"PATH=" + m.shims + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.host.Run(ctx, c)
	if err != nil {
		for _, p := range m.runs {
			dump(t, p)
		}
		t.Fatalf("%v, of:\n%s", err, script)
	}
	return out
}

// The scenario of the guide for EC2, by the page: two hosts with systemd, one with Docker.
func TestSystemd(t *testing.T) {
	ready(t)
	if world.Owner().Mark != 0 {
		t.Skip("this ground has one user only")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait)
	defer cancel()
	control, err := world.Control(ctx, stage.ControlOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Stop(context.WithoutCancel(ctx))
	blocks := page(t, "systemd.md")
	environment := []string{"PATH=" + tools(), "HOME=" + t.TempDir(), "AWS_PAGER="}
	prelude := fmt.Sprintf("eval \"$(evermesh env --data-dir %s)\"\n", control.DataDir)
	paste(t, world.Home(), t.TempDir(), environment, nil, prelude+"evermesh apply - << 'END'\n"+apps+"END\n")

	machines := map[string]*machine{}
	var before []string
	replaced := map[string]*strings.Replacer{}
	for _, node := range []string{"serviceB", "serviceBv2", "serviceA"} {
		h := newHost(t, node)
		world.DNS().Set(strings.ToLower(node)+".apps.local", h.Addr())
		if _, err := world.App(h, stage.App{Name: node, Listen: []string{":80"}}); err != nil {
			t.Fatal(err)
		}
		m, err := newMachine(h)
		if err != nil {
			t.Fatal(err)
		}
		machines[node] = m
		m.shims = shims(t, m.handle, "systemctl", "docker")
		testenv.Script(t, filepath.Join(m.shims, "sudo"), "#!/bin/sh\nexec \"$@\"\n")
		replaced[node] = strings.NewReplacer("NODE=serviceB", "NODE="+node, "virtualNode/serviceB", "virtualNode/"+node, "control.internal:7071", control.XDSAddr,
			"\nEND\n", "\n"+strings.Join(quick(), "\n")+"\nEND\n")

		dir := t.TempDir()
		if node == "serviceB" {
			paste(t, world.Home(), dir, environment, replaced[node], append([]string{prelude}, blocks["admin"]...)...)
		} else { // with the root's key, which saves a dozen starts of AWS's tools
			key := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", control.Key.AccessKeyID, control.Key.SecretAccessKey)
			if err := os.WriteFile(filepath.Join(dir, "credentials"), []byte(key), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		place := filepath.Join(m.root, "srv/evermesh")
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{filepath.Join(dir, "credentials"): "credentials", control.CAFile: "ca.pem"} {
			text, err := os.ReadFile(from)
			if err == nil {
				err = os.WriteFile(filepath.Join(place, to), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	before = machines["serviceB"].files(t)
	for _, node := range []string{"serviceB", "serviceA"} {
		t.Run(map[string]string{"serviceB": "EC2-003 EC2-007", "serviceA": "EC2-004"}[node]+" "+node+" by units", func(t *testing.T) {
			out := machines[node].paste(t, replaced[node], blocks["host"]...)
			for _, want := range []string{"active\nactive\n", "LIVE\n", "ok       rules", "ok       egress IPv4", "ok       control plane"} {
				if !strings.Contains(out, want) {
					t.Errorf("the page printed no %q:\n%s", want, out)
				}
			}
		})
	}
	t.Run("EC2-001 EC2-002 ICPT-023 serviceBv2 in Docker", func(t *testing.T) {
		m := machines["serviceBv2"]
		etc := filepath.Join(m.root, "etc/evermesh")
		if err := os.CopyFS(etc, os.DirFS(filepath.Join(m.root, "srv/evermesh"))); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(etc, "credentials"), 1337, 1337); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(etc, "ca.pem"), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := m.paste(t, replaced["serviceBv2"], blocks["docker"]...); !strings.Contains(out, "=== Enabling routing ===") {
			t.Errorf("the rules are not made:\n%s", out)
		}
	})
	if t.Failed() {
		return
	}
	client, url := h2c(machines["serviceA"].host), "http://serviceb.apps.local/"
	defer client.CloseIdleConnections()
	t.Run("EC2-008 a quarter goes to the new version, then all, then the old one is taken away", func(t *testing.T) {
		err := stage.Until(ctx, "both versions are reached", func(context.Context) bool {
			got := answers(client, url, 20)
			return got["serviceB"]+got["serviceBv2"] == 20 && got["serviceBv2"] > 0
		})
		if err != nil {
			t.Fatalf("%v: %v", err, answers(client, url, 20))
		}
		// Six standard deviations of a quarter of 576.
		if got := answers(client, url, 576); got["serviceB"]+got["serviceBv2"] != 576 || got["serviceBv2"] < 82 || got["serviceBv2"] > 206 {
			t.Errorf("of 576 requests, at 75 to 25: %v", got)
		}
		_, err = control.AppMesh.UpdateRoute(ctx, &appmesh.UpdateRouteInput{
			MeshName: aws.String("apps"), VirtualRouterName: aws.String("serviceB"), RouteName: aws.String("serviceB"),
			Spec: &types.RouteSpec{Http2Route: &types.HttpRoute{
				Match:  &types.HttpRouteMatch{Prefix: aws.String("/")},
				Action: &types.HttpRouteAction{WeightedTargets: []types.WeightedTarget{{VirtualNode: aws.String("serviceBv2"), Weight: 1}}},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = stage.Until(ctx, "all goes to the new version", func(context.Context) bool { return answers(client, url, 20)["serviceBv2"] == 20 })
		if err != nil {
			t.Fatal(err)
		}
		if got := answers(client, url, 100); got["serviceBv2"] != 100 {
			t.Errorf("of 100 requests, at 0 to 100: %v", got)
		}
		if _, err := control.AppMesh.DeleteVirtualNode(ctx, &appmesh.DeleteVirtualNodeInput{MeshName: aws.String("apps"), VirtualNodeName: aws.String("serviceB")}); err != nil {
			t.Fatal(err)
		}
		m := machines["serviceB"]
		m.paste(t, replaced["serviceB"], blocks["remove"]...)
		if got := answers(client, url, 100); got["serviceBv2"] != 100 {
			t.Errorf("of 100 requests, without the old version: %v", got)
		}
		if after := m.files(t); !slices.Equal(before, after) {
			t.Errorf("files before: %v\nand after: %v", before, after)
		}
		for _, name := range []string{"passwd", "group", "shadow", "gshadow"} {
			if text, err := os.ReadFile(filepath.Join(m.root, "etc", name)); err != nil || strings.Contains(string(text), "envoy") {
				t.Errorf("%s: %v: %s", name, err, text)
			}
		}
		if left := rules(t, m.host); strings.Contains(left, "APPMESH") {
			t.Errorf("rules are left: %s", left)
		}
	})
	t.Run("without interception the service talks directly", func(t *testing.T) {
		m := machines["serviceA"]
		if m.paste(t, replaced["serviceA"], "systemctl stop evermesh-intercept"); m.active("evermesh-agent.service") {
			t.Error("the agent goes on without interception")
		}
		client.CloseIdleConnections()
		if got := answers(client, url, 1); got["serviceB"] != 1 {
			t.Errorf("answered: %v", got)
		}
		if m.paste(t, replaced["serviceA"], "systemctl start evermesh-agent"); !m.active("evermesh-intercept.service") {
			t.Error("the agent is there without interception")
		}
		client.CloseIdleConnections()
		err := stage.Until(ctx, "the proxy is asked again", func(context.Context) bool { return answers(client, url, 20)["serviceBv2"] == 20 })
		if err != nil {
			t.Error(err)
		}
		m.paste(t, replaced["serviceA"], "systemctl stop evermesh-agent")
	})
}

// handle does what a page says to systemd, and to Docker.
func (m *machine) handle(c call) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if c.Args[0] == "systemctl" {
		out, err := m.systemctl(ctx, c.Args[1:]...)
		if err != nil {
			return outcome{Out: out, Err: err.Error() + "\n", Code: 1}
		}
		return outcome{Out: out}
	}
	if len(c.Args) < 2 || c.Args[1] != "run" {
		return failure(fmt.Errorf("%v is not understood here", c.Args))
	}
	run, detach, err := dockerRun(c.Args[2:], m.root)
	if err != nil {
		return failure(err)
	}
	if run.Name == "" {
		run.Name = imageName(run.Image)
	}
	p, err := run.start(m.host)
	if err != nil {
		return failure(err)
	}
	if detach {
		return outcome{Out: run.Name + "\n"}
	}
	err = p.Err()
	text, readErr := os.ReadFile(p.Log())
	if err := errors.Join(err, readErr); err != nil {
		return outcome{Out: string(text), Err: err.Error() + "\n", Code: 1}
	}
	return outcome{Out: string(text)}
}
