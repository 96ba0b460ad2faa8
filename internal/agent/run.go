package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Program is what Run is given beside the settings.
type Program struct {
	Version        string
	Args           []string // appended to Envoy's
	Stdout, Stderr *os.File // Envoy's
	Log            *slog.Logger
}

// OwnBootstrap says that the user wrote the bootstrap: then it is used as it is. One that an earlier run of the agent
// wrote is written anew.
func (s Settings) OwnBootstrap() bool {
	if s.ConfigFile == "" {
		return false
	}
	text, err := os.ReadFile(s.ConfigFile)
	return err == nil && len(text) > 0 && !bytes.HasPrefix(text, []byte(generatedMark))
}

// Run is the agent's life: it returns nil after ctx has ended and Envoy has drained, ErrExhausted when Envoy ended
// too often, a *ConfigError before Envoy was started for the first time.
func Run(ctx context.Context, s Settings, p Program) error {
	for _, w := range s.Warnings {
		p.Log.Warn("settings", "warning", w)
	}
	logEnvironment(p.Log)
	if err := raiseFileLimit(); err != nil {
		p.Log.Warn("cannot raise the limit of open files", "err", err)
	}
	path, err := s.findEnvoy()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "evermesh-agent-")
	if err != nil {
		return fmt.Errorf("make the agent's directory: %w", err)
	}
	defer os.RemoveAll(dir)
	var relay *Relay
	if s.ServiceConnect == "" {
		if s.SocketPath == "" {
			s.SocketPath = filepath.Join(dir, "xds.sock")
		}
		if relay, err = startRelay(ctx, s, p); err != nil {
			return err
		}
		defer relay.close()
	}
	own := s.OwnBootstrap()
	bootstrap, err := s.writeBootstrap(p.Log)
	if err != nil {
		return err
	}
	if s.ConfigFile == "" {
		defer os.Remove(bootstrap)
	}
	admin := newAdminClient(s.admin)
	envoy := &supervisor{
		path: path, args: s.arguments(bootstrap, p.Args), stdout: p.Stdout, stderr: p.Stderr,
		restarts: s.Restarts, drainTime: s.DrainTime, admin: admin, log: p.Log,
	}
	h := &health{
		envoy: envoy, admin: admin, relay: relay, interval: s.HealthInterval, limit: s.DisconnectedLimit,
		started: time.Now(), now: time.Now, state: stateUnreachable, disconnected: time.Now(),
	}
	if own {
		h.relay = nil // it may lead elsewhere: only Envoy knows
	}
	server, err := listenServer(s, h, admin, p.Log)
	if err != nil {
		return err
	}
	defer server.close()
	// Envoy drains after ctx has ended; its health is still told meanwhile.
	polling, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { h.run(polling) })
	defer func() { stop(); wg.Wait() }()
	return envoy.run(ctx)
}

func startRelay(ctx context.Context, s Settings, p Program) (*Relay, error) {
	if s.CAFile != "" {
		if _, err := readRoots(s.CAFile); err != nil {
			return nil, wrong("APPMESH_XDS_CA_FILE", "%v", err)
		}
	}
	if _, err := s.Proof.certificates(); err != nil {
		return nil, wrong("APPMESH_XDS_CLIENT_CERT_FILE", "%v", err)
	}
	u, err := newUpstreams(ctx, s, "evermesh-agent/"+p.Version, p.Log)
	if err != nil {
		return nil, err
	}
	relay, err := newRelay(s.SocketPath, u, p.Log)
	if err != nil {
		return nil, wrong("APPNET_RELAY_LISTENER_UDS_PATH", "%v", err)
	}
	return relay, nil
}

// writeBootstrap returns the file that Envoy starts with: the user's own, untouched, or a generated one.
func (s Settings) writeBootstrap(log *slog.Logger) (string, error) {
	if s.OwnBootstrap() {
		return s.ConfigFile, nil
	}
	files, err := s.Bootstrap.readUserFiles()
	if err != nil {
		return "", err
	}
	if text := files[s.Bootstrap.StatsFile]; bytes.Contains(text, []byte("stats_matcher")) || bytes.Contains(text, []byte("statsMatcher")) {
		log.Warn("stats matcher in ENVOY_STATS_CONFIG_FILE: envoy may fall out of step with the control plane, and what is left out cannot be asked for")
	}
	text, err := s.BootstrapFile(s.facts(), files)
	if err != nil {
		return "", err
	}
	f, err := s.createConfigFile()
	if err != nil {
		return "", wrong("ENVOY_CONFIG_FILE", "%v", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("write bootstrap: %w", err)
	}
	return f.Name(), nil
}

const bootstrapMode fs.FileMode = 0o644

func (s Settings) createConfigFile() (*os.File, error) {
	if s.ConfigFile != "" {
		return os.OpenFile(s.ConfigFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, bootstrapMode)
	}
	f, err := os.CreateTemp("", "envoy-config-*.yaml")
	if err != nil {
		return nil, err
	}
	return f, f.Chmod(bootstrapMode)
}

// facts asks the machine.
func (s Settings) facts() Facts {
	f := Facts{Instance: newInstance(), SocketPath: s.SocketPath, IPv4: map[string][]string{}, IPv6: map[string][]string{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return f
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			switch {
			case !ok:
			case n.IP.To4() != nil:
				f.IPv4[i.Name] = append(f.IPv4[i.Name], n.String())
			default:
				f.IPv6[i.Name] = append(f.IPv6[i.Name], n.String())
			}
		}
	}
	return f
}

// newInstance is 128 random bits.
func newInstance() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// logEnvironment logs what steers this agent, as App Mesh's did; none of it is secret.
func logEnvironment(log *slog.Logger) {
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"ENVOY_", "APPMESH_", "APPNET_", "EVERMESH_"} {
			if strings.HasPrefix(name, prefix) {
				log.Info("environment", "variable", name, "value", value)
			}
		}
	}
}
