//go:build linux

package stage

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Programs are the paths of what runs on a stage.
type Programs struct {
	Evermeshd string
	Agent     string // evermesh-agent
	Envoy     string

	self string // this program, for its applications
}

// Find locates the programs: Evermesh's own in bin of the module, as `make build` leaves them, or in
// EVERMESH_BIN; Envoy as ENVOY_PATH, then on PATH, then in build/tools/bin of the module.
func Find() (Programs, error) {
	root, outside := Root()
	bin := filepath.Join(root, "bin")
	if dir := os.Getenv("EVERMESH_BIN"); dir != "" {
		bin = dir
	} else if outside != nil {
		return Programs{}, outside
	}
	p := Programs{Evermeshd: filepath.Join(bin, "evermeshd"), Agent: filepath.Join(bin, "evermesh-agent"), self: "/proc/self/exe"}
	for _, path := range []string{p.Evermeshd, p.Agent} {
		if _, err := os.Stat(path); err != nil {
			return Programs{}, fmt.Errorf("find programs: %w: run make build, or name their directory in EVERMESH_BIN", err)
		}
	}
	var err error
	p.Envoy, err = testenv.FindEnvoy()
	return p, err
}

// EnvoyVersion is the version that the Envoy names itself, such as 1.40.0.
func (p Programs) EnvoyVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, p.Envoy, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask Envoy's version: %w", err)
	}
	// "/path/envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
	parts := strings.Split(string(out), "/")
	for i := len(parts) - 1; i > 0; i-- {
		if strings.Count(parts[i], ".") >= 2 {
			return strings.TrimSpace(parts[i]), nil
		}
	}
	return strings.TrimSpace(string(out)), nil
}
