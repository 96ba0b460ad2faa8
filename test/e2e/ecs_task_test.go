//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/evermesh/evermesh/internal/ecs"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// metadataAddress is where ECS's agent tells tasks about themselves, and gives them the credentials of their role.
const metadataAddress = "169.254.170.2"

// cluster runs task definitions as ECS's agent does: a network namespace for each task, the plugin aws-appmesh for what its
// proxyConfiguration says, containers in the order of dependsOn, the health check of the definition. A container is a
// process, and a path of a volume is replaced by a directory, as there is nothing that mounts.
type cluster struct {
	*mesh
	plugin  string            // evermesh-cni
	tools   string            // PATH for what containers run
	secrets map[string]string // by what valueFrom says

	mu    sync.Mutex
	tasks map[string]*task // by id
	asked map[string]int   // requests for metadata and credentials, by path
}

// newCluster makes a cluster whose tasks have the root key of the control plane as the credentials of their role.
func newCluster(t *testing.T, m *mesh) *cluster {
	t.Helper()
	if m.Owner().UID == 0 {
		t.Skip("Envoy is root in its user namespace: the plugin tells it by its user")
	}
	bin := os.Getenv("EVERMESH_BIN")
	if bin == "" {
		root, err := stage.Root()
		if err != nil {
			t.Fatal(err)
		}
		bin = filepath.Join(root, "bin")
	}
	c := &cluster{mesh: m, plugin: filepath.Join(bin, "evermesh-cni"), tools: os.Getenv("PATH"), secrets: map[string]string{}, tasks: map[string]*task{}, asked: map[string]int{}}
	if _, err := os.Stat(c.plugin); err != nil {
		t.Fatalf("%v: run make build", err)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		c.tools = curl(t) + ":" + c.tools
	}
	if m.control.CAFile != "" {
		c.secrets["arn:ca"] = read(t, m.control.CAFile)
	}
	if err := m.Home().Do(func() error {
		links, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer links.Close()
		bridge, err := links.LinkByName("br0")
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr(metadataAddress + "/32")
		if err != nil {
			return err
		}
		return links.AddrAdd(bridge, address)
	}); err != nil {
		t.Fatal(err)
	}
	l, err := m.Home().Listen("tcp", metadataAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: c, ReadHeaderTimeout: wait}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return c
}

// curl is a directory with the command curl as the image has it, for machines without one.
func curl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\nfor url; do :; done\nexec busybox wget -q -O - \"$url\"\n"
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ServeHTTP is the task metadata endpoint, version 4, and that of credentials. The documents have the shape of ECS's.
func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	id := strings.TrimPrefix(rest, "credentials/")
	id, of, _ := strings.Cut(id, "/")
	c.mu.Lock()
	k := c.tasks[id]
	c.asked[kind]++
	c.mu.Unlock()
	if k == nil {
		http.NotFound(w, r)
		return
	}
	container := map[string]any{
		"DockerId": k.id + "-1", "Name": "envoy", "Type": "NORMAL", "KnownStatus": "RUNNING", "Limits": map[string]any{"CPU": 512, "Memory": 500},
		"Networks": []any{map[string]any{"NetworkMode": "awsvpc", "IPv4Addresses": []string{k.host.Addr().String()}}},
	}
	var doc any = container
	switch {
	case kind == "v2":
		doc = map[string]any{
			"RoleArn": k.def.Role, "AccessKeyId": c.control.Key.AccessKeyID, "SecretAccessKey": c.control.Key.SecretAccessKey, "Token": c.control.Key.SessionToken,
			"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		}
	case of == "task":
		doc = map[string]any{
			"Cluster": "apps", "TaskARN": k.arn(), "Family": k.def.Family, "Revision": "1", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
			"AvailabilityZone": "us-east-1a", "LaunchType": "EC2", "Containers": []any{container},
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) // who has gone reads nothing
}

// task is one that runs.
type task struct {
	*cluster
	id   string
	def  *ecs.Definition
	host *ground.Host
	dir  string // of its volumes

	processes map[string]*ground.Process // by container
	order     []string                   // in which they were started
	healthy   time.Time                  // when the proxy was, and so
	started   time.Time                  // when the application was started
}

func (k *task) arn() string { return "arn:aws:ecs:us-east-1:111122223333:task/apps/" + k.id }

// start runs a task of the definition on a host of its own, and returns when all its containers run.
func (c *cluster) start(ctx context.Context, name string, def *ecs.Definition) (*task, error) {
	h, err := c.Host(c.name + "-" + name)
	if err != nil {
		return nil, err
	}
	k := &task{cluster: c, id: name, def: def, host: h, dir: filepath.Join(c.Dir(), "run", h.Name()), processes: map[string]*ground.Process{}}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chown(k.dir, int(c.Owner().UID), int(c.Owner().UID)); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.tasks[k.id] = k
	c.mu.Unlock()
	if def.Proxy != nil {
		if err := k.network(ctx, "ADD"); err != nil {
			return nil, err
		}
	}
	return k, k.startAll(ctx)
}

// network calls the plugin as ECS's agent does: with the properties of the proxy configuration, and the addresses of
// metadata added.
func (k *task) network(ctx context.Context, command string) error {
	p := k.def.Proxy
	config, err := json.Marshal(map[string]any{
		"cniVersion": "0.3.0", "name": "aws-appmesh", "type": "aws-appmesh",
		"ignoredUID": p.Property(ecs.IgnoredUID), "ignoredGID": p.Property(ecs.IgnoredGID),
		"proxyIngressPort": p.Property(ecs.ProxyIngressPort), "proxyEgressPort": p.Property(ecs.ProxyEgressPort),
		"appPorts": p.List(ecs.AppPorts), "egressIgnoredPorts": p.List(ecs.EgressIgnoredPorts), "egressIgnoredIPs": p.IgnoredAddresses(),
	})
	if err != nil {
		return err
	}
	var namespace *os.File
	if err := k.host.Do(func() (err error) {
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		return err
	}
	defer namespace.Close()
	cmd := exec.CommandContext(ctx, k.plugin)
	cmd.ExtraFiles = []*os.File{namespace}
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + command, "CNI_CONTAINERID=" + k.id, "CNI_NETNS=/proc/self/fd/3",
		"CNI_IFNAME=aws-appmesh", "CNI_PATH=" + filepath.Dir(k.plugin),
	}
	cmd.Stdin = bytes.NewReader(config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("aws-appmesh %s of task %s: %w: %s", command, k.id, err, out)
	}
	return nil
}

// startAll starts the containers, each when what it depends on is as it asks.
func (k *task) startAll(ctx context.Context) error {
	left := slices.Clone(k.def.Containers)
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(c ecs.Container) bool {
			return !slices.ContainsFunc(c.DependsOn, func(d ecs.Dependency) bool { return k.processes[d.Container] == nil })
		})
		if i < 0 {
			return fmt.Errorf("task %s: the containers depend on each other", k.id)
		}
		c := left[i]
		left = slices.Delete(left, i, i+1)
		for _, d := range c.DependsOn {
			if err := k.await(ctx, d); err != nil {
				return err
			}
		}
		p, err := k.launch(ctx, &c)
		if err != nil {
			return err
		}
		k.processes[c.Name], k.order = p, append(k.order, c.Name)
	}
	return nil
}

// await waits until a container is as another one asks.
func (k *task) await(ctx context.Context, d ecs.Dependency) error {
	p := k.processes[d.Container]
	switch d.Condition {
	case "SUCCESS", "COMPLETE":
		select {
		case <-p.Done():
		case <-ctx.Done():
			return fmt.Errorf("task %s: %s does not end: %w", k.id, d.Container, ctx.Err())
		}
		if d.Condition == "SUCCESS" {
			return p.Err()
		}
	case "HEALTHY":
		return k.health(ctx, d.Container)
	}
	return nil
}

// health runs a container's health check until it succeeds. It is asked ten times as often as the definition says, with as many
// more failures, for the sake of the tests' time.
func (k *task) health(ctx context.Context, name string) error {
	i := slices.IndexFunc(k.def.Containers, func(c ecs.Container) bool { return c.Name == name })
	check := k.def.Containers[i].HealthCheck
	if check == nil || len(check.Command) != 2 || check.Command[0] != "CMD-SHELL" {
		return fmt.Errorf("task %s: %s has no health check that a shell runs", k.id, name)
	}
	const faster = 10
	tick := time.NewTicker(time.Duration(check.Interval) * time.Second / faster)
	defer tick.Stop()
	began, failures := time.Now(), 0
	for {
		one, cancel := context.WithTimeout(ctx, time.Duration(check.Timeout)*time.Second)
		_, err := k.host.Run(one, ground.Command{Name: "health", Path: "/bin/sh", Args: []string{"-c", check.Command[1]}, Env: []string{"PATH=" + k.tools}})
		cancel()
		if err == nil {
			k.healthy = time.Now()
			return nil
		}
		if time.Since(began) > time.Duration(check.StartPeriod)*time.Second {
			if failures++; failures > check.Retries*faster {
				return fmt.Errorf("task %s: %s is unhealthy: %w", k.id, name, err)
			}
		}
		select {
		case <-tick.C:
		case <-k.processes[name].Done():
			return fmt.Errorf("task %s: %s ended: %w", k.id, name, k.processes[name].Err())
		case <-ctx.Done():
			return fmt.Errorf("task %s: %s does not become healthy: %w", k.id, name, ctx.Err())
		}
	}
}

// applicationImage is what the guide's samples call the application's.
const applicationImage = "appImage"

// launch starts a container: the application, or a program of the image of Envoy.
func (k *task) launch(ctx context.Context, c *ecs.Container) (*ground.Process, error) {
	if c.Image == applicationImage {
		k.started = time.Now()
		p, err := k.App(k.host, stage.App{Name: k.id, Listen: []string{fmt.Sprintf(":%d", c.Ports[0].Container)}})
		if err != nil {
			return nil, err
		}
		return p, k.listens(ctx, c.Ports[0].Container)
	}
	env := []string{ // what the image says, and ECS
		"PATH=" + k.tools, "HOME=" + k.dir, "TMPDIR=" + k.dir, "ENVOY_PATH=" + k.Programs.Envoy, "ENVOY_CONCURRENCY=1", "ENVOY_LOG_LEVEL=warning", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null",
		"AWS_EXECUTION_ENV=AWS_ECS_EC2", "AWS_REGION=" + k.control.Region, "ECS_CONTAINER_METADATA_URI_V4=http://" + metadataAddress + "/v4/" + k.id,
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/" + k.id,
	}
	place := func(text string) string {
		for _, m := range c.MountPoints {
			text = strings.ReplaceAll(text, m.Path, k.dir)
		}
		return text
	}
	for _, v := range c.Environment {
		env = append(env, v.Name+"="+place(v.Value))
	}
	for _, s := range c.Secrets {
		env = append(env, s.Name+"="+k.secrets[s.From])
	}
	args := append(slices.Clone(c.EntryPoint), c.Command...)
	if len(c.EntryPoint) == 0 {
		args = append([]string{k.Programs.Agent}, args...) // the image's entry point
	}
	for i := range args {
		args[i] = place(args[i])
	}
	uid := k.Owner().UID // the image's user
	if c.User != "" {
		if _, err := fmt.Sscan(c.User, &uid); err != nil {
			return nil, fmt.Errorf("task %s: user %q: %w", k.id, c.User, err)
		}
	}
	return k.host.Start(ground.Command{Name: c.Name, Path: args[0], Args: args[1:], Env: env, UID: uid})
}

// listens waits until the application listens, as a health check of its container has ECS do: a task whose application has none
// is registered before it can answer.
func (k *task) listens(ctx context.Context, port int) error {
	return stage.Until(ctx, "the application of task "+k.id+" listens", func(ctx context.Context) bool {
		conn, err := k.host.Dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil && conn.Close() == nil
	})
}

// stop ends the task as ECS does: SIGTERM to containers in the reverse of the order in which they depend on each other, each
// with its time to stop.
func (k *task) stop(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Backward(k.order) {
		seconds := 30
		for _, c := range k.def.Containers {
			if c.Name == name && c.StopTimeout > 0 {
				seconds = c.StopTimeout
			}
		}
		one, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		errs = append(errs, k.processes[name].Stop(one), k.processes[name].Err())
		cancel()
	}
	if k.def.Proxy != nil {
		errs = append(errs, k.network(ctx, "DEL"))
	}
	return errors.Join(errs...)
}
