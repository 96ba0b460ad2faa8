package store

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger is a logger for etcd that passes warnings on to log. fatal is told
// of what ends etcd; nil leaves that to zap.
func zapLogger(log *slog.Logger, fatal func(string)) *zap.Logger {
	var options []zap.Option
	if fatal != nil {
		options = append(options, zap.WithFatalHook(hook(fatal)), zap.WithPanicHook(hook(fatal)))
	}
	return zap.New(&bridge{handler: log.Handler()}, options...)
}

// exit is the last line of a process whose etcd cannot go on. Without it etcd
// would end the process in silence.
func exit(message string) {
	fmt.Fprintf(os.Stderr, "evermeshd: store: %s\n", message)
	os.Exit(1)
}

// hook is told of the entry that ends etcd.
type hook func(string)

// OnWrite satisfies zapcore.CheckWriteHook.
func (h hook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	text := []string{e.Message}
	all := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(all)
	}
	for _, key := range slices.Sorted(maps.Keys(all.Fields)) {
		text = append(text, fmt.Sprintf("%s=%v", key, all.Fields[key]))
	}
	h(strings.Join(text, " "))
}

// bridge is a zapcore.Core that writes to slog.
type bridge struct {
	handler slog.Handler
	fields  []zapcore.Field
}

// harmless says that a warning of etcd is about a setting that is as it should
// be, about a stop that was asked for, or says again what somebody else says.
func harmless(e zapcore.Entry, fields map[string]any) bool {
	switch e.Message {
	case "Running http and grpc server on single port. This is not recommended for production.":
		return true // there is no port at all
	case "retrying of unary invoker failed":
		return true // whoever asked gets the error, and says it once
	case "setting up serving from embedded etcd failed.":
		return strings.Contains(fmt.Sprint(fields["error"]), "use of closed network connection")
	}
	return false
}

func (b *bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{b.handler, slices.Concat(b.fields, fields)}
}

func (b *bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return c.AddCore(e, b)
	}
	return c
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	ctx := context.Background()
	if !b.handler.Enabled(ctx, level) {
		return nil
	}
	all := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(b.fields, fields) {
		f.AddTo(all)
	}
	if harmless(e, all.Fields) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, "etcd: "+e.Message, 0)
	for _, key := range slices.Sorted(maps.Keys(all.Fields)) {
		r.AddAttrs(slog.Any(key, all.Fields[key]))
	}
	return b.handler.Handle(ctx, r)
}

func (b *bridge) Sync() error { return nil }
