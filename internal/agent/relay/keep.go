package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/lastgood"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// leastKey is how long a key in a file must be, in bytes.
const leastKey = 32

// keeper is the store of what Envoy acknowledged.
func keeper(s settings.Settings, u *upstreams, log *slog.Logger) (*lastgood.Store, error) {
	if s.RelayOnly { // the Envoys are of many nodes
		return lastgood.New(lastgood.Options{Off: true, Log: log, Now: time.Now}), nil
	}
	asked := s.LastGood
	if asked.KeyFile != "" {
		if _, err := readKey(asked.KeyFile); err != nil {
			return nil, settings.Wrong("EVERMESH_STATE_KEY_FILE", "%v", err)
		}
	}
	dir := asked.Dir
	if dir == "" && !asked.MemoryOnly {
		if info, err := os.Stat(settings.DefaultStateDir); err == nil && info.IsDir() && unix.Access(settings.DefaultStateDir, unix.W_OK) == nil {
			dir = settings.DefaultStateDir
		} else {
			log.Info("the configuration is kept in memory alone: there is no directory for it", "directory", settings.DefaultStateDir)
		}
	}
	return lastgood.New(lastgood.Options{
		Dir: dir, Log: log, Now: time.Now, Strict: asked.KeyFile != "",
		Keys: func(ctx context.Context) [][]byte { return u.keys(ctx, asked.KeyFile) },
	}), nil
}

// keys are what proves who the agent is, as bytes that nobody else has: with each of them what is kept can be opened. The
// file's key alone stays what it is; tokens and sessions rotate.
func (u *upstreams) keys(ctx context.Context, keyFile string) (out [][]byte) {
	add := func(kind string, key []byte) { out = append(out, append([]byte(kind+"\x00"), key...)) }
	if keyFile != "" {
		if key, err := readKey(keyFile); err == nil {
			add("file", key)
		}
	}
	p := u.signer.proof
	// The order is always the same: the first key is what secrets are sealed with, and what tells whether the identity is another.
	for _, k := range []struct{ kind, file string }{{"token", p.TokenFile}, {"certificate", p.KeyFile}} {
		if k.file == "" {
			continue
		}
		if text, err := os.ReadFile(k.file); err == nil && len(text) >= leastKey {
			add(k.kind, text)
		}
	}
	if !p.Unsigned() && !u.signer.vain() { // it is for streams to search again
		if c, err := u.signer.retrieve(ctx); err == nil && c.SecretAccessKey != "" {
			add("secret access key", []byte(c.SecretAccessKey))
		}
	}
	return out
}

func readKey(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if len(key) < leastKey {
		return nil, errors.New("the key is shorter than 32 bytes, such as head -c 32 /dev/urandom | base64 gives")
	}
	return []byte(key), nil
}
