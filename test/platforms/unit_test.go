//go:build linux

package platforms

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/images"
)

// unit is a file of systemd: values by "Section.Key".
type unit map[string][]string

// acted are the keys that are acted on here; checked are those that are left to systemd-analyze.
var acted = []string{
	"Install.WantedBy", "Install.RequiredBy", "Unit.After", "Service.Type", "Service.RemainAfterExit", "Service.User", "Service.Group",
	"Service.Environment", "Service.EnvironmentFile", "Service.ExecStart", "Service.ExecStartPost", "Service.ExecStop", "Service.KillMode",
	"Service.StateDirectory", "Service.StateDirectoryMode", "Service.RuntimeDirectory", "Service.RuntimeDirectoryMode", "Service.CapabilityBoundingSet",
	"Service.AmbientCapabilities", "Service.NoNewPrivileges", "Service.PrivateTmp", "Service.ProtectSystem", "Service.ReadWritePaths", "Service.UMask",
}

var checked = []string{
	"Unit.Description", "Unit.Documentation", "Unit.Wants", "Unit.StartLimitIntervalSec", "Service.TimeoutStartSec", "Service.TimeoutStopSec", "Service.Restart",
	"Service.RestartSec", "Service.RestartPreventExitStatus", "Service.LimitNOFILE", "Service.LockPersonality", "Service.MemoryDenyWriteExecute",
	"Service.PrivateDevices", "Service.ProtectClock", "Service.ProtectControlGroups", "Service.ProtectHome", "Service.ProtectHostname",
	"Service.ProtectKernelLogs", "Service.ProtectKernelModules", "Service.ProtectKernelTunables", "Service.RestrictAddressFamilies",
	"Service.RestrictNamespaces", "Service.RestrictRealtime", "Service.RestrictSUIDSGID", "Service.SystemCallArchitectures", "Service.SystemCallFilter",
}

func readUnit(file string) (unit, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	u, section := unit{}, ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch key, value, ok := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		case !ok:
			return nil, fmt.Errorf("%s: %q is no setting", file, line)
		default:
			key = section + "." + key
			if !slices.Contains(acted, key) && !slices.Contains(checked, key) {
				return nil, fmt.Errorf("%s: %s is not understood here", file, key)
			}
			u[key] = append(u[key], value)
		}
	}
	return u, nil
}

func (u unit) get(key string) string {
	if all := u["Service."+key]; len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// machine is a host whose services systemd looks after, with files of its own but for the system's programs.
type machine struct {
	host  *ground.Host
	root  string
	shims string
	units map[string]unit
	runs  map[string]*ground.Process // services of Type=exec that are active
	done  map[string]bool            // services of Type=oneshot that are
}

// newMachine makes the files of a host below the images' folder.
func newMachine(h *ground.Host) (*machine, error) {
	m := &machine{host: h, root: filepath.Join(world.roots.Dir, "host-"+h.Name()), runs: map[string]*ground.Process{}, done: map[string]bool{}}
	for _, dir := range []string{"", "etc", "usr", "run", "var/lib", "var/tmp", "tmp", "root", "local/bin", "local/sbin", "home", "etc/systemd/system", "etc/sysusers.d"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(filepath.Join(m.root, "tmp"), 0o1777); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "shadow": "root:*:20000::::::\n", "gshadow": "root:*::\n", "hosts": "127.0.0.1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n", "resolv.conf": fmt.Sprintf("nameserver %s\n", world.DNS().Addr().Addr()),
	} {
		if err := os.WriteFile(filepath.Join(m.root, "etc", name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	// Where the machine has links into /usr, so does the host.
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if target, err := os.Readlink("/" + dir); err == nil {
			if err := os.Symlink(target, filepath.Join(m.root, dir)); err != nil {
				return nil, err
			}
		}
	}
	return m, images.Engine(m.root)
}

// box is a program on the machine, with all of it to write to.
func (m *machine) box(args ...string) box {
	b := box{Root: m.root, Args: args, Caps: allCapabilities()}
	b.Mounts = append(b.Mounts, volume{Source: "/usr", Target: "/usr", ReadOnly: true}, volume{Source: filepath.Join(m.root, "local"), Target: "/usr/local"})
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			b.Mounts = append(b.Mounts, volume{Source: dir, Target: dir, ReadOnly: true})
		}
	}
	return b
}

func (m *machine) reload() error {
	m.units = map[string]unit{}
	files, err := filepath.Glob(filepath.Join(m.root, "etc/systemd/system/*.service"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if m.units[filepath.Base(file)], err = readUnit(file); err != nil {
			return err
		}
	}
	return nil
}

// systemctl does what a page says to systemd.
func (m *machine) systemctl(ctx context.Context, args ...string) (string, error) {
	var names []string
	now := false
	for _, a := range args[1:] {
		switch {
		case a == "--now":
			now = true
		case strings.HasPrefix(a, "-"):
			return "", fmt.Errorf("systemctl %s is not understood here", a)
		default:
			names = append(names, strings.TrimSuffix(a, ".service")+".service")
		}
	}
	for _, name := range names {
		if m.units[name] == nil {
			return "", fmt.Errorf("Unit %s could not be found", name)
		}
	}
	var out strings.Builder
	for _, name := range names {
		var err error
		switch args[0] {
		case "enable":
			if err = m.link(name, true); err == nil && now {
				err = m.start(ctx, name)
			}
		case "disable":
			if now {
				err = m.stop(ctx, name)
			}
			err = errors.Join(err, m.link(name, false))
		case "start":
			err = m.start(ctx, name)
		case "stop":
			err = m.stop(ctx, name)
		case "is-active":
			if !m.active(name) {
				return out.String() + "inactive\n", errors.New("not active")
			}
			out.WriteString("active\n")
		default:
			err = fmt.Errorf("systemctl %s is not understood here", args[0])
		}
		if err != nil {
			return out.String(), err
		}
	}
	if args[0] == "daemon-reload" {
		return "", m.reload()
	}
	return out.String(), nil
}

// link puts the links of [Install] there, or takes them away.
func (m *machine) link(name string, there bool) error {
	for key, suffix := range map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires"} {
		for _, by := range m.units[name]["Install."+key] {
			dir := filepath.Join(m.root, "etc/systemd/system", by+suffix)
			if !there {
				_ = os.Remove(filepath.Join(dir, name))
				_ = os.Remove(dir) // when it is empty
				continue
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := os.Symlink("../"+name, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
				return err
			}
		}
	}
	return nil
}

// requires are the units that the unit does not go without.
func (m *machine) requires(name string) (all []string) {
	links, _ := filepath.Glob(filepath.Join(m.root, "etc/systemd/system", name+".requires", "*")) // the pattern is good
	for _, l := range links {
		all = append(all, filepath.Base(l))
	}
	return all
}

func (m *machine) active(name string) bool { return m.done[name] || m.runs[name] != nil }

// start starts what the unit requires, then the unit. All that is required here is ordered before, as its After says.
func (m *machine) start(ctx context.Context, name string) error {
	if m.active(name) {
		return nil
	}
	u := m.units[name]
	for _, other := range m.requires(name) {
		if !strings.Contains(strings.Join(u["Unit.After"], " "), other) {
			return fmt.Errorf("%s requires %s and does not start after it", name, other)
		}
		if err := m.start(ctx, other); err != nil {
			return err
		}
	}
	if u.get("Type") == "oneshot" {
		for _, line := range u["Service.ExecStart"] {
			if err := m.run(ctx, name, line); err != nil {
				return err
			}
		}
		m.done[name] = u.get("RemainAfterExit") == "yes"
		return nil
	}
	b, env, err := m.service(name, u.get("ExecStart"))
	if err != nil {
		return err
	}
	p, err := b.start(m.host, name, env)
	if err != nil {
		return err
	}
	m.runs[name] = p
	for _, line := range u["Service.ExecStartPost"] {
		if err := m.run(ctx, name, line); err != nil {
			return errors.Join(err, m.stop(ctx, name))
		}
	}
	return nil
}

// stop stops first what requires the unit.
func (m *machine) stop(ctx context.Context, name string) error {
	var errs []error
	for other := range m.units {
		if m.active(other) && slices.Contains(m.requires(other), name) {
			errs = append(errs, m.stop(ctx, other))
		}
	}
	u := m.units[name]
	if m.active(name) {
		for _, line := range u["Service.ExecStop"] {
			errs = append(errs, m.run(ctx, name, line))
		}
	}
	if p := m.runs[name]; p != nil {
		errs = append(errs, p.Stop(ctx), p.Err())
	}
	delete(m.runs, name)
	delete(m.done, name)
	if dir := u.get("RuntimeDirectory"); dir != "" {
		errs = append(errs, os.RemoveAll(filepath.Join(m.root, "run", dir)))
	}
	return errors.Join(errs...)
}

func (m *machine) run(ctx context.Context, name, line string) error {
	b, env, err := m.service(name, line)
	if err != nil {
		return err
	}
	c, err := b.command(name+"-"+strconv.Itoa(len(strings.Fields(line))), env)
	if err == nil {
		_, err = m.host.Run(ctx, c)
	}
	return err
}

func allCapabilities() (all []int) {
	for c := range 41 {
		all = append(all, c)
	}
	return all
}

// service is a command of a unit with its environment, as systemd would run it.
func (m *machine) service(name, line string) (box, []string, error) {
	u := m.units[name]
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8"}
	for _, text := range u["Service.Environment"] {
		env = append(env, strings.Fields(text)...)
	}
	for _, file := range u["Service.EnvironmentFile"] {
		text, err := os.ReadFile(filepath.Join(m.root, file))
		if err != nil {
			return box{}, nil, err
		}
		for v := range strings.Lines(string(text)) {
			if v = strings.TrimSpace(v); v != "" && v[0] != '#' {
				env = append(env, v)
			}
		}
	}
	b := m.box(strings.Fields(line)...)
	b.ReadOnly = u.get("ProtectSystem") == "strict"
	b.NoGain = u.get("NoNewPrivileges") == "yes"
	if set, ok := u["Service.CapabilityBoundingSet"]; ok {
		b.Caps = nil
		for _, c := range strings.Fields(strings.Join(set, " ")) {
			n, err := capability(c)
			if err != nil {
				return box{}, nil, err
			}
			b.Caps = append(b.Caps, n)
		}
	}
	if u.get("AmbientCapabilities") != "" {
		return box{}, nil, errors.New("AmbientCapabilities are not understood here")
	}
	if user := u.get("User"); user != "" {
		text, err := os.ReadFile(filepath.Join(m.root, "etc/passwd"))
		if err != nil {
			return box{}, nil, err
		}
		for l := range strings.Lines(string(text)) {
			if f := strings.Split(strings.TrimSpace(l), ":"); f[0] == user {
				if b.User, err = strconv.Atoi(f[2]); err != nil {
					return box{}, nil, err
				}
				env = append(env, "HOME="+f[5], "USER="+user)
			}
		}
		if b.User == 0 {
			return box{}, nil, fmt.Errorf("there is no user %s", user)
		}
	}
	return b, env, m.places(name, u, &b)
}

// places are what a unit may write to.
func (m *machine) places(name string, u unit, b *box) error {
	for key, parent := range map[string]string{"StateDirectory": "var/lib", "RuntimeDirectory": "run"} {
		dir := u.get(key)
		if dir == "" {
			continue
		}
		mode, err := strconv.ParseUint(u.get(key+"Mode"), 8, 32)
		if err != nil {
			return err
		}
		place := filepath.Join(m.root, parent, dir)
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(place, os.FileMode(mode)), os.Chown(place, b.User, b.User)); err != nil {
			return err
		}
		b.Mounts = append(b.Mounts, volume{Source: place, Target: filepath.Join("/", parent, dir)})
	}
	for _, path := range u["Service.ReadWritePaths"] {
		b.Mounts = append(b.Mounts, volume{Source: filepath.Join(m.root, path), Target: path})
	}
	if u.get("PrivateTmp") == "yes" {
		tmp := filepath.Join(world.roots.Dir, "tmp-"+m.host.Name()+"-"+name)
		if err := os.MkdirAll(tmp, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(tmp, 0o1777); err != nil {
			return err
		}
		b.Mounts = append(b.Mounts, volume{Source: tmp, Target: "/tmp"})
	}
	return nil
}
