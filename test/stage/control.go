//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/ground"
)

// Control is an evermeshd and the means to use it: as a user, with the key that it made.
type Control struct {
	Name      string
	DataDir   string
	Admin     string // URL of /readyz and /metrics
	XDS       string // as APPMESH_XDS_ENDPOINT takes it
	XDSAddr   string // host:port of it
	CAFile    string // of XDS, readable by every user; "" where XDS is plaintext
	Region    string
	Account   string
	Key       aws.Credentials
	AppMesh   *appmesh.Client
	Evermesh  *client.Client
	Process   *ground.Process
	stage     *Stage
	command   ground.Command
	readiness *http.Client
}

// ControlOptions are what a test may want otherwise.
type ControlOptions struct {
	Name  string // "" is evermeshd; needed for a second one
	Ports []int  // of API, management service and administration; nil is 7070 to 7072
	// Loopback puts the management service on loopback too, and so without TLS.
	Loopback bool
	Args     []string // further arguments of `evermeshd serve`
	Env      []string // further variables
}

// Control starts an evermeshd with embedded etcd on the home host and waits until it is ready. The API is on
// loopback, the management service on the host's address and so with TLS; both demand signatures.
func (s *Stage) Control(ctx context.Context, o ControlOptions) (*Control, error) {
	if o.Name == "" {
		o.Name = "evermeshd"
	}
	if o.Ports == nil {
		o.Ports = []int{7070, 7071, 7072}
	}
	dir, err := s.runDir(o.Name, 0)
	if err != nil {
		return nil, err
	}
	at := func(addr netip.Addr, port int) string { return netip.AddrPortFrom(addr, uint16(port)).String() }
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	where := s.Home().Addr()
	if o.Loopback {
		where = loopback
	}
	c := &Control{
		Name: o.Name, DataDir: filepath.Join(dir, "data"), stage: s,
		Admin: "http://" + at(loopback, o.Ports[2]), XDSAddr: at(where, o.Ports[1]),
		readiness: &http.Client{Timeout: patience},
	}
	c.command = ground.Command{
		Name: o.Name, Path: s.Programs.Evermeshd,
		Args: append([]string{
			"serve", "--data-dir", c.DataDir, "--api-listen", at(loopback, o.Ports[0]),
			"--xds-listen", c.XDSAddr, "--admin-listen", at(loopback, o.Ports[2]), "--drain-seconds", "2",
		}, o.Args...),
		Env: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}, o.Env...),
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	return c, c.connect(ctx)
}

// Start starts the evermeshd again, on the data that it left, and waits until it is ready.
func (c *Control) Start(ctx context.Context) error {
	var err error
	if c.Process, err = c.stage.Home().Start(c.command); err != nil {
		return err
	}
	return awaitProcess(ctx, c.Process, c.Name+" is ready", c.ready)
}

func (c *Control) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Admin+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := c.readiness.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// connect makes the clients, from what evermeshd left for its users in the data directory.
func (c *Control) connect(ctx context.Context) error {
	facts, err := client.ReadFacts(c.DataDir)
	if err != nil {
		return err
	}
	c.Region, c.Account = facts.Region, facts.Account
	c.XDS = facts.XDSEndpoint
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(facts.Region), config.WithBaseEndpoint(facts.APIEndpoint),
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{facts.Credentials}),
		config.WithSharedConfigProfile("default"), config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	if err != nil {
		return fmt.Errorf("read the key of %s: %w", c.Name, err)
	}
	if c.Key, err = cfg.Credentials.Retrieve(ctx); err != nil {
		return fmt.Errorf("read the key of %s: %w", c.Name, err)
	}
	c.AppMesh = appmesh.NewFromConfig(cfg)
	c.Evermesh, err = client.New(client.Config{Endpoint: facts.APIEndpoint, Region: facts.Region, Credentials: cfg.Credentials})
	if err != nil {
		return err
	}
	if facts.XDSCABundle == "" {
		return nil
	}
	// The data directory is closed to agents, as it should be.
	text, err := os.ReadFile(facts.XDSCABundle)
	if err != nil {
		return fmt.Errorf("read the CA of %s: %w", c.Name, err)
	}
	c.CAFile = filepath.Join(c.stage.Dir(), "run", c.Name+"-ca.pem")
	if err := os.WriteFile(c.CAFile, text, 0o644); err != nil {
		return fmt.Errorf("publish the CA of %s: %w", c.Name, err)
	}
	return nil
}

// Add gives the evermeshd further arguments, from its next Start on.
func (c *Control) Add(args ...string) { c.command.Args = append(c.command.Args, args...) }

// Run runs another of evermeshd's commands, such as backup, on the same host to its end and returns what it printed.
func (c *Control) Run(ctx context.Context, args ...string) (string, error) {
	return c.stage.Home().Run(ctx, ground.Command{Name: c.Name + "-" + args[0], Path: c.command.Path, Args: args, Env: c.command.Env})
}

// Kill ends the evermeshd at once, by SIGKILL.
func (c *Control) Kill() error { return c.Process.Kill() }

// Stop ends it by SIGTERM and waits.
func (c *Control) Stop(ctx context.Context) error {
	return errors.Join(c.Process.Stop(ctx), c.Process.Err())
}

// awaitProcess is Until for something that a process does; its end ends the wait, and an error carries its log.
func awaitProcess(ctx context.Context, p *ground.Process, what string, done func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	err := Until(ctx, what, func(ctx context.Context) bool {
		select {
		case <-p.Done():
			ended(fmt.Errorf("it ended: %w", errors.Join(p.Err(), errors.New("too early"))))
			return false
		default:
			return done(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, Tail(p.Log()))
	}
	return nil
}

// Tail is the end of a log, as the continuation of an error's text.
func Tail(log string) string {
	const most = 2000
	text, err := os.ReadFile(log)
	if err != nil || len(text) == 0 {
		return ""
	}
	text = text[max(0, len(text)-most):]
	return "\n" + filepath.Base(log) + ":\n" + strings.TrimSpace(string(text))
}
