//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/evermesh/evermesh/test/ground"
)

// Sidecar is an agent with the Envoy that it runs.
type Sidecar struct {
	Host    *ground.Host
	Dir     string          // its own, writable by Envoy's user; the relay listens on xds.sock there
	Process *ground.Process // of the agent
	admin   *http.Client
	port    int // of Envoy's administration interface
	command ground.Command
}

// SidecarOptions say whose proxy it is.
type SidecarOptions struct {
	// Resource is the ARN, or its short form, of the virtual node or gateway.
	Resource string
	// AppPorts are the application's ports, whose arriving traffic goes through Envoy: "9080,9081". "" is none.
	AppPorts string
	// Alone is an Envoy without an application beside it, as a gateway's: nothing is redirected.
	Alone bool
	// XDS are the control planes to try, in any order; the key is the first one's.
	XDS []*Control
	// Early returns without waiting until Envoy serves; see WaitLive.
	Early bool
	// AdminPort is that of Envoy's administration interface; 0 is 9901.
	AdminPort int
	// Env are further variables of the agent.
	Env []string
}

// Sidecar redirects the host's traffic, starts an agent on it and waits until its Envoy serves.
func (s *Stage) Sidecar(ctx context.Context, h *ground.Host, o SidecarOptions) (*Sidecar, error) {
	if !o.Alone {
		if err := s.redirect(ctx, h, o.AppPorts); err != nil {
			return nil, err
		}
	}
	dir, err := s.runDir(h.Name(), s.Owner().UID)
	if err != nil {
		return nil, err
	}
	var endpoints []string
	for _, c := range o.XDS {
		endpoints = append(endpoints, c.XDS)
	}
	first := o.XDS[0]
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir,
		"APPMESH_RESOURCE_ARN=" + o.Resource, "APPMESH_XDS_ENDPOINT=" + strings.Join(endpoints, ","),
		"AWS_REGION=" + first.Region, "AWS_ACCESS_KEY_ID=" + first.Key.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + first.Key.SecretAccessKey, "AWS_EC2_METADATA_DISABLED=true",
		"ENVOY_PATH=" + s.Programs.Envoy, "ENVOY_LOG_LEVEL=warning", "ENVOY_CONCURRENCY=1",
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "LISTENER_DRAIN_WAIT_TIME_S=5",
		"APPNET_AGENT_ADMIN_MODE=tcp", "APPNET_RELAY_LISTENER_UDS_PATH=" + filepath.Join(dir, "xds.sock"),
	}
	if ca, err := s.joinCAs(dir, o.XDS); err != nil {
		return nil, err
	} else if ca != "" {
		env = append(env, "APPMESH_XDS_CA_FILE="+ca)
	}
	if s.Owner().Mark != 0 && !o.Alone {
		env = append(env, s.Owner().Env()...)
	}
	if o.AdminPort == 0 {
		o.AdminPort = 9901
	}
	env = append(env, fmt.Sprintf("ENVOY_ADMIN_ACCESS_PORT=%d", o.AdminPort))
	c := &Sidecar{Host: h, Dir: dir, admin: h.Client(), port: o.AdminPort, command: ground.Command{
		Name: "agent", Path: s.Programs.Agent, Env: append(env, o.Env...), UID: s.Owner().UID,
	}}
	c.admin.Timeout = patience
	if err := c.Start(); err != nil || o.Early {
		return c, err
	}
	return c, c.WaitLive(ctx)
}

// joinCAs is one file with the certificates of all the control planes' CAs; "" where there are none.
func (s *Stage) joinCAs(dir string, of []*Control) (string, error) {
	var all []byte
	for _, c := range of {
		if c.CAFile == "" {
			continue
		}
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return "", fmt.Errorf("join CAs: %w", err)
		}
		all = append(all, text...)
	}
	if len(all) == 0 {
		return "", nil
	}
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, all, 0o644); err != nil {
		return "", fmt.Errorf("join CAs: %w", err)
	}
	return file, nil
}

// redirect runs the agent's init container on the host.
func (s *Stage) redirect(ctx context.Context, h *ground.Host, appPorts string) error {
	env := append([]string{
		"PATH=" + os.Getenv("PATH"), "APPMESH_START_ENABLED=1", "APPMESH_ENVOY_EGRESS_PORT=15001",
		"APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_EGRESS_IGNORED_IP=169.254.169.254,169.254.170.2",
	}, s.Owner().Env()...)
	if appPorts != "" {
		env = append(env, "APPMESH_APP_PORTS="+appPorts)
	}
	_, err := h.Run(ctx, ground.Command{Name: "intercept", Path: s.Programs.Agent, Args: []string{"intercept"}, Env: env})
	return err
}

// Start starts the agent, again if it has ended.
func (c *Sidecar) Start() error {
	var err error
	c.Process, err = c.Host.Start(c.command)
	return err
}

// Run runs another verb of the agent's program to its end, as the agent's user and with its variables and those in env, and
// returns what it printed.
func (c *Sidecar) Run(ctx context.Context, env []string, args ...string) (string, error) {
	one := c.command
	one.Name, one.Args, one.Env = args[0], args, append(slices.Clip(one.Env), env...)
	return c.Host.Run(ctx, one)
}

// AgentStatus is what the agent answers to GET /status.
func (c *Sidecar) AgentStatus(ctx context.Context) (map[string]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9902/status", nil)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := c.admin.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	defer resp.Body.Close()
	var status map[string]string
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	return status, nil
}

// WaitLive waits until Envoy has its first configuration and serves.
func (c *Sidecar) WaitLive(ctx context.Context) error {
	return awaitProcess(ctx, c.Process, "Envoy on "+c.Host.Name()+" is live", func(ctx context.Context) bool {
		text, err := c.Admin(ctx, "/ready")
		return err == nil && strings.TrimSpace(text) == "LIVE"
	})
}

// Admin is what Envoy's administration interface answers to GET path.
func (c *Sidecar) Admin(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path), nil)
	if err != nil {
		return "", fmt.Errorf("ask Envoy: %w", err)
	}
	resp, err := c.admin.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask Envoy: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", resp.Status, text)
	}
	if err != nil {
		return "", fmt.Errorf("ask Envoy for %s: %w", path, err)
	}
	return string(text), nil
}

// Envoys are the processes of the Envoys that the agent runs: one, but for none while it starts another, and two while
// one takes over.
func (c *Sidecar) Envoys() (pids []int, err error) {
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.Process.Pid()))
	if err != nil {
		return nil, fmt.Errorf("find Envoy: %w", err)
	}
	for _, file := range children {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that has ended
		}
		for id := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(id)
			if err != nil {
				return nil, fmt.Errorf("find Envoy: %w", err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// KillEnvoy ends Envoy, and not its agent, by SIGKILL, as the kernel does for want of memory.
func (c *Sidecar) KillEnvoy() error {
	pids, err := c.Envoys()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill Envoy: %w", err)
		}
	}
	if len(pids) == 0 {
		return fmt.Errorf("kill Envoy: the agent on %s runs none", c.Host.Name())
	}
	return nil
}

// RestartEnvoy is KillEnvoy, and waits until the agent's next Envoy serves.
func (c *Sidecar) RestartEnvoy(ctx context.Context) error {
	before, err := c.Envoys()
	if err == nil {
		err = c.KillEnvoy()
	}
	if err != nil {
		return err
	}
	return c.NextEnvoy(ctx, before)
}

// NextEnvoy waits until an Envoy that is none of these processes serves, alone. By its process it is never missed; how old
// it is, its statistics tell too late for who looks seldom.
func (c *Sidecar) NextEnvoy(ctx context.Context, before []int) error {
	if err := awaitProcess(ctx, c.Process, "there is another Envoy on "+c.Host.Name(), func(context.Context) bool {
		now, err := c.Envoys()
		return err == nil && len(now) == 1 && !slices.Contains(before, now[0])
	}); err != nil {
		return err
	}
	return c.WaitLive(ctx)
}

// Stat is the value of one of Envoy's counters or gauges; 0 for one that does not exist yet.
func (c *Sidecar) Stat(ctx context.Context, name string) (int, error) {
	text, err := c.Admin(ctx, "/stats")
	if err != nil {
		return 0, err
	}
	var value int
	for line := range strings.Lines(text) {
		if found, number, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && found == name {
			_, err = fmt.Sscan(number, &value)
		}
	}
	return value, err
}
