package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// Program is what Run is given beside the settings.
type Program struct {
	Version        string
	Args           []string // appended to Envoy's
	Stdout, Stderr *os.File // Envoy's
	Log            *slog.Logger

	Hurry    <-chan struct{} // closed: the drain that ctx began ends at once; nil never
	HandOver <-chan struct{} // a new Envoy is to take the old one's place; nil never
	QuitWith int             // a process with whose end the agent drains and ends; 0 for none
	Harden   bool            // give up privileges that are not needed, for the whole process
}

// Run is the agent's life: it returns nil after ctx has ended, or what QuitWith names, and Envoy has drained;
// supervise.ErrExhausted when Envoy ended too often, a *settings.ConfigError before Envoy was started for the first time.
func Run(ctx context.Context, s settings.Settings, p Program) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	err := run(ctx, quit, s, p)
	if ctx.Err() == nil || err == nil || errors.Is(err, supervise.ErrExhausted) {
		return err
	}
	p.Log.Warn("the agent was told to end, and did not do all that it began", "err", err)
	return nil
}

func run(ctx context.Context, quit func(), s settings.Settings, p Program) error {
	for _, w := range s.Warnings {
		p.Log.Warn("settings", "warning", w)
	}
	logs.Environment(p.Log, os.Environ())
	if err := supervise.RaiseFileLimit(); err != nil {
		p.Log.Warn("cannot raise the limit of open files", "err", err)
	}
	path := "" // there is no Envoy
	if !s.RelayOnly {
		var err error
		if path, err = supervise.Find(s); err != nil {
			return err
		}
	}
	if p.Harden && !s.Supervision.KeepCapabilities {
		if err := supervise.DropPrivileges(s, path); err != nil {
			p.Log.Warn("cannot give up privileges", "err", err)
		}
	}
	// Both wait for services that may be silent: at the same time.
	found := relay.Begin(ctx, s, p.Log)
	defer found.Close()
	machine, s, err := facts(ctx, s, path, p.Log)
	if err != nil {
		return err
	}
	beside, end := context.WithCancel(context.WithoutCancel(ctx)) // what goes on while Envoy drains
	var wg sync.WaitGroup
	defer func() { end(); wg.Wait() }()
	wg.Go(func() { supervise.Reap(beside, s.Supervision.Poll) })
	if p.QuitWith != 0 {
		wg.Go(func() {
			switch err := supervise.AwaitExit(beside, p.QuitWith); {
			case err == nil:
				p.Log.Info("the process that this agent serves has ended", "pid", p.QuitWith)
				quit()
			case errors.Is(err, syscall.ESRCH):
				p.Log.Warn("there is no process of --quit-with: it is taken to have ended before the agent began", "pid", p.QuitWith)
				quit()
			case beside.Err() == nil:
				p.Log.Error("cannot wait for the process of --quit-with: the agent goes on without", "err", err)
			}
		})
	}
	if s.RelayOnly {
		return relayOnly(ctx, quit, s, found, p)
	}
	own := s.OwnBootstrap()
	at, err := newPlace(p.Log)
	if err != nil {
		return err
	}
	defer at.remove()
	sockets, err := at.sockets(room(s, p.Args), shortRoots())
	if err != nil {
		return err
	}
	s.Bootstrap = p.envoyLogs(s.Bootstrap)
	var upstream *relay.Relay
	if s.ServiceConnect == "" {
		if s.SocketPath == "" {
			s.SocketPath = filepath.Join(sockets, relaySocket)
		}
		if upstream, err = relay.Start(s, found, p.Version, p.Log); err != nil {
			return err
		}
		defer upstream.Close()
		upstream.Prepare()
	}
	machine.SocketPath = s.SocketPath
	if s.ConfigFile == "" {
		s.ConfigFile = filepath.Join(at.dir, "envoy-config.yaml")
	}
	var file string
	if file, s.Admin, err = writeBootstrap(s, machine, p.Log); err != nil {
		return err
	}
	admin := envoyadmin.New(s.Admin)
	envoy := &supervise.Envoy{
		Path: path, Args: supervise.Arguments(s, file, p.Args), Stdout: p.Stdout, Stderr: p.Stderr,
		Settings: s, Admin: admin, Log: p.Log, Hurry: p.Hurry, HandOver: p.HandOver, Sockets: sockets,
		Watch: supervise.Watch{Interval: s.HealthInterval, Silent: s.Supervision.Silent, Lenient: own},
	}
	if upstream != nil {
		envoy.Tell = func(ctx context.Context) (supervise.Left, error) {
			return tellDrain(ctx, upstream, s.Resource.ID, machine.Instance, p.Log)
		}
	}
	h := httpapi.NewHealth(httpapi.HealthOptions{
		Envoy: envoy, Admin: admin, Relay: upstream, Interval: s.HealthInterval, Limit: s.DisconnectedLimit,
		Started: time.Now(), Now: time.Now, Apart: s.Interception.None,
	})
	if own {
		h.Relay = nil // it may lead elsewhere: only Envoy knows
	}
	o := httpapi.ServerOptions{
		Where: s.Server, Health: h, Admin: admin, Level: s.LogLevel, Reset: s.LoggingReset, Quit: quit, Log: p.Log,
	}
	if s.Reports.Snapshots {
		o.Snapshots = &httpapi.Snapshots{Envoy: envoy, Admin: admin, Interval: httpapi.SnapshotInterval, Log: p.Log}
		wg.Go(func() { o.Snapshots.Run(beside) })
	}
	server, err := httpapi.Listen(o)
	if err != nil {
		return err
	}
	defer server.Close()
	wg.Go(func() { h.Run(beside) })
	checkAdminPort(s, p.Log)
	wg.Go(func() { watchPorts(beside, admin, s, p.Log) })
	return envoy.Run(ctx)
}

// writeBootstrap returns the file that Envoy starts with, the user's own, untouched, or a generated one; and where that has
// Envoy's administration interface, which is asked from now on.
func writeBootstrap(s settings.Settings, machine bootstrap.Facts, log *slog.Logger) (string, settings.Admin, error) {
	if s.OwnBootstrap() {
		text, err := os.ReadFile(s.ConfigFile)
		if err != nil {
			return "", s.Admin, settings.Wrong("ENVOY_CONFIG_FILE", "%v", err)
		}
		return s.ConfigFile, adminOf(s.Admin, text), nil
	}
	files, err := bootstrap.ReadUserFiles(s.Bootstrap)
	if err != nil {
		return "", s.Admin, err
	}
	if text := files[s.Bootstrap.StatsFile]; bytes.Contains(text, []byte("stats_matcher")) || bytes.Contains(text, []byte("statsMatcher")) {
		log.Warn("stats matcher in ENVOY_STATS_CONFIG_FILE: envoy may fall out of step with the control plane, and what is left out cannot be asked for")
	}
	text, warnings, err := bootstrap.File(s, machine, files)
	if err != nil {
		return "", s.Admin, err
	}
	for _, w := range warnings {
		log.Warn("a file that goes into the bootstrap", "warning", w)
	}
	f, err := os.OpenFile(s.ConfigFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, bootstrapMode)
	if err != nil {
		return "", s.Admin, settings.Wrong("ENVOY_CONFIG_FILE", "%v", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", s.Admin, fmt.Errorf("write bootstrap: %w", err)
	}
	return f.Name(), adminOf(s.Admin, text), nil
}

const bootstrapMode fs.FileMode = 0o644
