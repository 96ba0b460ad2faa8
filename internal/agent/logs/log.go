// Package logs is what the agent says: its lines have the form of App Mesh's agent ([New]), its environment is told at the
// start ([Environment]), and with Envoy's output they may go into one [File], of which full ones are kept for a while.
package logs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// New writes lines in the form of App Mesh's agent, which is Envoy's, in UTC:
//
//	[2026-03-01 12:00:00.000][17][info] [AppNet Agent] envoy started pid=23
//
// level is one of Envoy's.
func New(w io.Writer, level string) *slog.Logger {
	at := slog.LevelInfo
	switch level {
	case "trace", "debug":
		at = slog.LevelDebug
	case "warn", "warning":
		at = slog.LevelWarn
	case "error", "critical":
		at = slog.LevelError
	case "off":
		at = slog.LevelError + 4
	}
	return slog.New(&lineHandler{w: w, level: at, mu: &sync.Mutex{}})
}

type lineHandler struct {
	mu     *sync.Mutex
	w      io.Writer
	level  slog.Level
	prefix string // attributes of With, written
	group  string // of WithGroup, with a dot behind
}

func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	word := map[slog.Level]string{slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warning", slog.LevelError: "error"}[r.Level]
	if word == "" {
		word = strings.ToLower(r.Level.String())
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "[%s][%d][%s] [AppNet Agent] %s%s", r.Time.UTC().Format("2006-01-02 15:04:05.000"), os.Getpid(), word, r.Message, h.prefix)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.attribute(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

func (h *lineHandler) attribute(a slog.Attr) string {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindAny && value.Any() == nil {
		return ""
	}
	text := value.String()
	if text == "" || strings.ContainsAny(text, " \t\n\"=") {
		text = fmt.Sprintf("%q", text)
	}
	return " " + h.group + a.Key + "=" + text
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	for _, a := range attrs {
		with.prefix += h.attribute(a)
	}
	return &with
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.group += name + "."
	return &with
}
