//go:build linux

package platforms

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/test/ground"
)

// container is what Docker, Compose and Kubernetes say of one, in the words that they share.
type container struct {
	Name, Image      string
	Hostname         string
	Entry, Args      []string // in place of the image's; nil is the image's
	Env              []string
	User             string // "" is the image's
	Groups           []int
	CapAdd, CapDrop  []string
	ReadOnly, NoGain bool
	Volumes          []volume
}

// configuration is what an image's Dockerfile says of how it is started.
type configuration struct {
	entry, command, env []string
	user                string
}

var instruction = regexp.MustCompile(`(?m)^(ENTRYPOINT|CMD|ENV|USER) (.*)$`)

func readImage(image string) (c configuration, err error) {
	text, err := os.ReadFile(filepath.Join(world.repository, "deploy", "images", image, "Dockerfile"))
	if err != nil {
		return c, err
	}
	for _, m := range instruction.FindAllStringSubmatch(string(text), -1) {
		switch m[1] {
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(m[2]), &c.entry)
		case "CMD":
			err = json.Unmarshal([]byte(m[2]), &c.command)
		case "ENV":
			c.env = append(c.env, strings.Fields(m[2])...)
		case "USER":
			c.user = m[2]
		}
		if err != nil {
			return c, fmt.Errorf("Dockerfile of %s: %w", image, err)
		}
	}
	return c, nil
}

// dockers are the capabilities that Docker and containerd give root where nothing else is said.
var dockers = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE,
}

// box is the container with its environment, from the folder of its image.
func (c container) box() (box, []string, error) {
	image, err := readImage(imageName(c.Image))
	if err != nil {
		return box{}, nil, err
	}
	b := box{Root: filepath.Join(world.roots.Dir, imageName(c.Image)), ReadOnly: c.ReadOnly, NoGain: c.NoGain, Mounts: c.Volumes, Groups: c.Groups, Hostname: c.Hostname}
	b.Args = image.entry
	if c.Entry != nil {
		b.Args, image.command = c.Entry, nil
	}
	if c.Args != nil {
		image.command = c.Args
	}
	b.Args = append(slices.Clone(b.Args), image.command...)
	user := c.User
	if user == "" {
		user = image.user
	}
	if user != "" {
		first, _, _ := strings.Cut(user, ":")
		if b.User, err = strconv.Atoi(first); err != nil {
			return box{}, nil, fmt.Errorf("user %q is not understood here", user)
		}
	}
	b.Caps = slices.Clone(dockers)
	for _, name := range c.CapDrop {
		if name != "ALL" {
			return box{}, nil, fmt.Errorf("dropping %s is not understood here", name)
		}
		b.Caps = nil
	}
	for _, name := range c.CapAdd {
		n, err := capability(name)
		if err != nil {
			return box{}, nil, err
		}
		b.Caps = append(b.Caps, n)
	}
	return b, append(image.env, c.Env...), nil
}

func (c container) start(h *ground.Host) (*ground.Process, error) {
	b, env, err := c.box()
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return b.start(h, c.Name, env)
}

// run runs the container to its end and returns what it printed.
func (c container) run(ctx context.Context, h *ground.Host) (string, error) {
	b, env, err := c.box()
	if err != nil {
		return "", fmt.Errorf("container %s: %w", c.Name, err)
	}
	command, err := b.command(c.Name, env)
	if err != nil {
		return "", err
	}
	return h.Run(ctx, command)
}

// imageName is the folder of deploy/images for an image such as registry.example/evermesh/envoy:1.
func imageName(image string) string {
	name := image[strings.LastIndex(image, "/")+1:]
	name, _, _ = strings.Cut(name, ":")
	return name
}

// dockerRun reads the arguments of `docker run`; sources of volumes are below root.
func dockerRun(args []string, root string) (c container, detach bool, err error) {
	for len(args) > 0 {
		flag := args[0]
		if !strings.HasPrefix(flag, "-") {
			c.Image, c.Args = flag, args[1:]
			if len(c.Args) == 0 {
				c.Args = nil
			}
			return c, detach, nil
		}
		args = args[1:]
		switch flag {
		case "--detach":
			detach = true
			continue
		case "--rm":
			continue
		}
		if len(args) == 0 {
			return c, detach, fmt.Errorf("docker run: %s has no value", flag)
		}
		value := args[0]
		args = args[1:]
		switch flag {
		case "--env":
			c.Env = append(c.Env, value)
		case "--name":
			c.Name = value
		case "-u", "--user":
			c.User = value
		case "--cap-add":
			c.CapAdd = append(c.CapAdd, value)
		case "--cap-drop":
			c.CapDrop = append(c.CapDrop, value)
		case "--volume":
			v := strings.Split(value, ":")
			c.Volumes = append(c.Volumes, volume{Source: filepath.Join(root, v[0]), Target: v[1], ReadOnly: len(v) == 3 && v[2] == "ro"})
		case "--network":
			if value != "host" {
				return c, detach, fmt.Errorf("docker run: network %s is not understood here", value)
			}
		default:
			return c, detach, fmt.Errorf("docker run: %s is not understood here", flag)
		}
	}
	return c, detach, fmt.Errorf("docker run: no image")
}

// emptyDir is a new folder of the images' file system, for what a container writes; named ones stay for the next one.
func emptyDir(name string, mode os.FileMode, owner int) (string, error) {
	dir := filepath.Join(world.roots.Dir, "volumes", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, mode); err != nil {
		return "", err
	}
	if world.Owner().Mark != 0 {
		owner = 0
	}
	return dir, os.Chown(dir, owner, owner)
}

// quick are variables of agents that make a test shorter: they drain for 5 s and are asked each second.
func quick() []string {
	return []string{"LISTENER_DRAIN_WAIT_TIME_S=5", "APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S=1", "ENVOY_CONCURRENCY=1"}
}
