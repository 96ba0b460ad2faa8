package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/evermesh/evermesh/internal/agent/logs"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// output is where Envoy and the agent write.
type output struct {
	stdout, stderr *os.File // Envoy's
	log            *slog.Logger
	file           *logs.File // nil for the standard streams
	passed         []*passedOn
}

// newOutput is the log file where one is asked for, and can be had; otherwise the standard streams.
func newOutput(s settings.Settings, stdout, stderr *os.File) output {
	o := output{stdout: stdout, stderr: stderr, log: logs.New(stderr, s.LogLevel)}
	l := s.Reports.LogFile
	if l.Directory == "" {
		return o.passOnSockets()
	}
	file, err := logs.OpenFile(logs.FileOptions{
		Path: filepath.Join(l.Directory, l.Name), MaxBytes: l.MaxBytes, Keep: l.Keep, Else: stderr, Now: time.Now,
	})
	if err != nil {
		o.log.Warn("no log file in APPNET_ENVOY_LOG_DESTINATION: the standard streams are used", "err", err)
		return o.passOnSockets()
	}
	return output{stdout: file.Pipe(), stderr: file.Pipe(), log: logs.New(file, s.LogLevel), file: file}
}

// close waits for what Envoy has written.
func (o output) close() {
	for _, p := range o.passed {
		p.close()
	}
	if o.file == nil {
		return
	}
	if err := o.file.Close(); err != nil {
		logs.New(o.file, "info").Warn("cannot close the log file", "err", err) // goes to standard error
	}
}
