package store

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func TestEtcdsWarningsReachTheLog(t *testing.T) {
	var log bytes.Buffer
	lg := zapLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), nil)
	lg.With(zap.String("member", "a")).Warn("slow", zap.Int("b", 1))
	lg.Error("worse")
	lg.Info("nothing")
	lg.Error("setting up serving from embedded etcd failed.", zap.String("error", "accept: use of closed network connection"))
	want := "level=WARN msg=\"etcd: slow\" b=1 member=a\nlevel=ERROR msg=\"etcd: worse\"\n"
	if got := log.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// What ends etcd ends the process with one line and code 1, not in silence.
func TestAFatalErrorOfEtcdIsSaid(t *testing.T) {
	const variable = "STORE_TEST_FATAL"
	if how := os.Getenv(variable); how != "" {
		lg := zapLogger(slog.New(slog.DiscardHandler), exit)
		if how == "panic" {
			lg.Panic("cannot go on", zap.String("path", "/x"))
		}
		lg.Fatal("cannot go on", zap.String("path", "/x"))
		return
	}
	for _, how := range []string{"fatal", "panic"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAFatalErrorOfEtcdIsSaid$")
		cmd.Env = append(os.Environ(), variable+"="+how)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		err := cmd.Run()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || stderr.String() != "evermeshd: store: cannot go on path=/x\n" {
			t.Errorf("%s: ended with %v and said %q", how, err, stderr.String())
		}
	}
}
