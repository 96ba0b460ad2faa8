//go:build linux

package platforms

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// compose is a Compose file, as far as ours use the specification: what is not here fails the test.
type compose struct {
	Name     string
	Services map[string]*composed
	Volumes  map[string]*struct{}
}

type composed struct {
	Image, Hostname, User, Restart string
	Entrypoint, Command, Profiles  []string
	CapAdd                         []string `json:"cap_add"`
	CapDrop                        []string `json:"cap_drop"`
	SecurityOpt                    []string `json:"security_opt"`
	ReadOnly                       bool     `json:"read_only"`
	Init                           bool
	Tmpfs, Volumes                 []string
	Environment                    map[string]string
	NetworkMode                    string `json:"network_mode"`
	StopGracePeriod                string `json:"stop_grace_period"`
	Networks                       map[string]struct{ Aliases []string }
	DependsOn                      map[string]struct{ Condition string } `json:"depends_on"`
	Healthcheck                    *struct {
		Test              []string
		Interval, Timeout string
		StartPeriod       string `json:"start_period"`
		Retries           int
	}
}

var variable = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)

func readCompose(t *testing.T) *compose {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(world.repository, "deploy/compose/compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text = variable.ReplaceAll(text, []byte("$1"))
	var all map[string]json.RawMessage
	if err := yaml.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(name string, _ json.RawMessage) bool { return strings.HasPrefix(name, "x-") })
	text, err = json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// project is what `docker compose` has made of the file.
type project struct {
	*compose
	dir      string // of the file
	prefix   string // of hosts
	mu       sync.Mutex
	services map[string]*ground.Process
}

func (p *project) host(name string) (*ground.Host, error) {
	if owner, ok := strings.CutPrefix(p.Services[name].NetworkMode, "service:"); ok {
		return p.host(owner)
	}
	h, err := world.Host(p.prefix + name)
	if err != nil {
		return nil, err
	}
	world.DNS().Set(name, h.Addr())
	for _, network := range p.Services[name].Networks {
		for _, alias := range network.Aliases {
			world.DNS().Set(alias, h.Addr())
		}
	}
	return h, nil
}

// container is a service's, with args in place of its command unless they are nil.
func (p *project) container(name string, args []string) (container, error) {
	s := p.Services[name]
	c := container{
		Name: name, Image: s.Image, Hostname: s.Hostname, User: s.User, Entry: s.Entrypoint, Args: s.Command, CapAdd: s.CapAdd, CapDrop: s.CapDrop, ReadOnly: s.ReadOnly,
		NoGain: slices.Contains(s.SecurityOpt, "no-new-privileges:true"),
	}
	if args != nil {
		c.Args = args
	}
	for _, k := range slices.Sorted(maps.Keys(s.Environment)) {
		c.Env = append(c.Env, k+"="+s.Environment[k])
	}
	if imageName(s.Image) == "envoy" {
		c.Env = append(c.Env, quick()...)
	}
	for _, text := range s.Volumes {
		parts := strings.Split(text, ":")
		v := volume{Source: parts[0], Target: parts[1], ReadOnly: len(parts) == 3 && parts[2] == "ro"}
		if strings.HasPrefix(v.Source, ".") {
			v.Source = filepath.Join(p.dir, v.Source)
		} else {
			if _, ok := p.Volumes[v.Source]; !ok {
				return c, fmt.Errorf("%s: there is no volume %s", name, v.Source)
			}
			// A volume begins as what the image has there, of the same owner and mode.
			info, err := os.Stat(filepath.Join(world.roots.Dir, imageName(s.Image), v.Target))
			mode, owner := os.FileMode(0o755), 0
			if err == nil {
				mode, owner = info.Mode().Perm(), int(info.Sys().(*syscall.Stat_t).Uid)
			}
			made, statErr := os.Stat(filepath.Join(world.roots.Dir, "volumes", p.prefix+v.Source))
			if statErr == nil {
				mode, owner = made.Mode().Perm(), int(made.Sys().(*syscall.Stat_t).Uid)
			}
			if v.Source, err = emptyDir(p.prefix+v.Source, mode, owner); err != nil {
				return c, err
			}
		}
		c.Volumes = append(c.Volumes, v)
	}
	for i, target := range s.Tmpfs {
		dir, err := emptyDir(fmt.Sprintf("%s%s-tmp%d", p.prefix, name, i), 0o777|os.ModeSticky, 0)
		if err != nil {
			return c, err
		}
		c.Volumes = append(c.Volumes, volume{Source: dir, Target: target})
	}
	return c, nil
}

// start starts a service's container; images that are not ours are stood in for.
func (p *project) start(name string) (*ground.Process, error) {
	h, err := p.host(name)
	if err != nil {
		return nil, err
	}
	s := p.Services[name]
	switch imageName(s.Image) {
	case "http-echo":
		return world.App(h, stage.App{Name: strings.TrimPrefix(s.Command[1], "-text="), Listen: []string{strings.TrimPrefix(s.Command[0], "-listen=")}})
	case "curl":
		return h.Start(ground.Command{Name: name, Path: "/bin/sleep", Args: s.Command[1:]})
	}
	c, err := p.container(name, nil)
	if err != nil {
		return nil, err
	}
	return c.start(h)
}

// up starts services and what they depend on, and waits as they say.
func (p *project) up(ctx context.Context, names ...string) error {
	for _, name := range names {
		s := p.Services[name]
		if s == nil {
			return fmt.Errorf("no such service: %s", name)
		}
		if p.services[name] != nil {
			continue
		}
		for _, other := range slices.Sorted(maps.Keys(s.DependsOn)) {
			if err := p.up(ctx, other); err != nil {
				return err
			}
			if err := p.await(ctx, other, s.DependsOn[other].Condition); err != nil {
				return err
			}
		}
		if owner, ok := strings.CutPrefix(s.NetworkMode, "service:"); ok {
			if err := p.up(ctx, owner); err != nil {
				return err
			}
		}
		process, err := p.start(name)
		if err != nil {
			return err
		}
		p.services[name] = process
	}
	return nil
}

func (p *project) await(ctx context.Context, name, condition string) error {
	process := p.services[name]
	switch condition {
	case "service_completed_successfully":
		return process.Err()
	case "service_healthy":
		check := p.Services[name].Healthcheck
		if check == nil || check.Test[0] != "CMD" {
			return fmt.Errorf("%s has no check of its health", name)
		}
		h, err := p.host(name)
		if err != nil {
			return err
		}
		c, err := p.container(name, nil)
		if err != nil {
			return err
		}
		c.Entry, c.Args, c.Name = check.Test[1:], []string{}, name+"-health"
		var last error
		err = stage.Until(ctx, name+" is healthy", func(ctx context.Context) bool {
			_, last = c.run(ctx, h)
			return last == nil
		})
		if err != nil {
			return fmt.Errorf("%w: %w%s", err, last, stage.Tail(process.Log()))
		}
		return nil
	default:
		return fmt.Errorf("%s: condition %s is not understood here", name, condition)
	}
}

// docker does what the page says to Docker.
func (p *project) docker(c call) outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if len(c.Args) < 3 || c.Args[1] != "compose" {
		return failure(fmt.Errorf("%v is not understood here", c.Args))
	}
	out, err := p.command(ctx, c.Args[2], c.Args[3:])
	if err != nil {
		return outcome{Out: out, Err: err.Error() + "\n", Code: 1}
	}
	return outcome{Out: out}
}

func (p *project) command(ctx context.Context, verb string, args []string) (string, error) {
	switch verb {
	case "up":
		var names []string
		for _, a := range args {
			if a != "--detach" && a != "--wait" {
				names = append(names, a)
			}
		}
		if names == nil {
			for _, name := range slices.Sorted(maps.Keys(p.Services)) {
				if p.Services[name].Profiles == nil {
					names = append(names, name)
				}
			}
		}
		if err := p.up(ctx, names...); err != nil {
			return "", err
		}
		for _, name := range names {
			if slices.Contains(args, "--wait") && p.Services[name].Healthcheck != nil {
				if err := p.await(ctx, name, "service_healthy"); err != nil {
					return "", err
				}
			}
		}
		return "", nil
	case "run":
		name := args[1]
		if args[0] != "--rm" || p.Services[name] == nil {
			return "", fmt.Errorf("run %v is not understood here", args)
		}
		return p.run(ctx, name, args[2:])
	case "cp":
		service, path, _ := strings.Cut(args[0], ":")
		c, err := p.container(service, nil)
		if err != nil {
			return "", err
		}
		for _, v := range c.Volumes {
			if rest, ok := strings.CutPrefix(path, v.Target); ok {
				text, err := os.ReadFile(v.Source + rest)
				if err != nil {
					return "", err
				}
				return "", os.WriteFile(filepath.Join(p.dir, args[1]), text, 0o600)
			}
		}
		return "", fmt.Errorf("cp %v is not understood here", args)
	case "exec":
		h, err := p.host(args[0])
		if err != nil {
			return "", err
		}
		if imageName(p.Services[args[0]].Image) == "evermeshd" {
			c, err := p.container(args[0], nil)
			if err != nil {
				return "", err
			}
			c.Name, c.Entry, c.Args = c.Name+"-exec", args[1:], []string{}
			return c.run(ctx, h)
		}
		return h.Run(ctx, ground.Command{Name: "exec-" + args[1], Path: "/usr/bin/env", Args: args[1:], Env: []string{"PATH=" + os.Getenv("PATH")}})
	case "down":
		return "", p.down(ctx)
	}
	return "", fmt.Errorf("docker compose %s is not understood here", verb)
}

// run runs a service's container to its end; AWS's command line is the machine's.
func (p *project) run(ctx context.Context, name string, args []string) (string, error) {
	h, err := p.host(name)
	if err != nil {
		return "", err
	}
	if len(args) == 0 {
		args = nil
	}
	c, err := p.container(name, args)
	if err != nil {
		return "", err
	}
	if imageName(c.Image) == "aws-cli" {
		env := []string{"PATH=" + tools(), "HOME=/nonexistent"}
		for _, v := range c.Env {
			for _, m := range c.Volumes {
				v = strings.Replace(v, m.Target+"/", m.Source+"/", 1)
			}
			env = append(env, v)
		}
		return h.Run(ctx, ground.Command{Name: name, Path: filepath.Join(world.repository, "build/tools/bin/aws"), Args: args, Env: env})
	}
	c.Name += "-run"
	return c.run(ctx, h)
}

// down stops everything, first what depends on others.
func (p *project) down(ctx context.Context) error {
	for len(p.services) > 0 {
		var last []string
		for name := range p.services {
			needed := false
			for other := range p.services {
				_, depends := p.Services[other].DependsOn[name]
				needed = needed || depends || p.Services[other].NetworkMode == "service:"+name
			}
			if !needed {
				last = append(last, name)
			}
		}
		var stopping sync.WaitGroup
		for _, name := range last {
			process := p.services[name]
			delete(p.services, name)
			stopping.Go(func() { _ = process.Stop(ctx) }) // its log says why it did not
		}
		stopping.Wait()
	}
	return nil
}

// The page for Docker Compose, from the first command to the last.
func TestCompose(t *testing.T) {
	ready(t)
	p := &project{compose: readCompose(t), dir: filepath.Join(t.TempDir(), "compose"), prefix: "compose-", services: map[string]*ground.Process{}}
	if err := os.CopyFS(p.dir, os.DirFS(filepath.Join(world.repository, "deploy/compose"))); err != nil {
		t.Fatal(err)
	}
	for d := p.dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { // containers' users come here
			t.Fatal(err)
		}
	}
	dir := shims(t, p.docker, "docker")
	testenv.Script(t, filepath.Join(dir, "sudo"), "#!/bin/sh\nexec \"$@\"\n")
	blocks := page(t, "compose.md")
	env := []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	replace := strings.NewReplacer("cd deploy/compose", "cd "+p.dir)
	defer func() {
		if !t.Failed() {
			return
		}
		for _, process := range p.services {
			dump(t, process)
		}
	}()
	t.Run("the page", func(t *testing.T) {
		paste(t, world.Home(), p.dir, env, replace, blocks["start"]...)
		out := paste(t, world.Home(), p.dir, env, replace, blocks["use"]...)
		if !strings.Contains(out, `"app":"v1"`) || !strings.Contains(out, `"app":"v2"`) || !strings.Contains(out, "X-Envoy-Expected-Rq-Timeout-Ms") {
			t.Errorf("the page printed:\n%s", out)
		}
		if !strings.Contains(out, "mesh/shop/virtualNode/front") && !strings.Contains(out, "virtualNode/front") {
			t.Errorf("the page shows no proxy:\n%s", out)
		}
	})
	if t.Failed() {
		return
	}
	t.Run("it is stopped without a failure", func(t *testing.T) {
		envoys := map[string]*ground.Process{}
		p.mu.Lock()
		for name, process := range p.services {
			if imageName(p.Services[name].Image) == "envoy" && p.Services[name].Entrypoint == nil || name == "control" {
				envoys[name] = process
			}
		}
		p.mu.Unlock()
		paste(t, world.Home(), p.dir, env, replace, blocks["stop"]...)
		for name, process := range envoys {
			if err := process.Err(); err != nil {
				t.Errorf("%s ended with %v", name, err)
			}
		}
		if len(envoys) != 4 {
			t.Errorf("stopped %d", len(envoys))
		}
	})
}
