package main

import (
	"io"
	stdlog "log"
	"log/slog"
)

// newLog makes the program's logger as the settings say.
func newLog(w io.Writer, level, format string) *slog.Logger {
	var at slog.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		at = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: at}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// httpLog takes what net/http says about connections, mostly of peers that gave
// up a TLS handshake.
func httpLog(log *slog.Logger) *stdlog.Logger {
	return slog.NewLogLogger(log.Handler(), slog.LevelDebug)
}
