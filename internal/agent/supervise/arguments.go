package supervise

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Arguments are Envoy's, as App Mesh's agent gave them.
func Arguments(s settings.Settings, bootstrap string, extra []string) []string {
	args := []string{"-c", bootstrap, "-l", s.LogLevel}
	if s.Concurrency >= 0 {
		args = append(args, "--concurrency", strconv.Itoa(s.Concurrency))
	}
	args = append(args, "--drain-time-s", strconv.Itoa(int(s.DrainTime/time.Second)))
	if !s.HotRestart {
		args = append(args, "--disable-hot-restart")
	}
	if !s.KeepDeprecated {
		args = append(args, "--skip-deprecated-logs")
	}
	return append(args, extra...)
}

// Find is ENVOY_PATH, else envoy on PATH, else where the image has it.
func Find(s settings.Settings) (string, error) {
	if s.EnvoyPath != "" {
		if _, err := os.Stat(s.EnvoyPath); err != nil {
			return "", settings.Wrong("ENVOY_PATH", "%v", err)
		}
		return s.EnvoyPath, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	const image = "/usr/bin/envoy"
	if _, err := os.Stat(image); err != nil {
		return "", settings.Wrong("ENVOY_PATH", "must name the Envoy binary: it is neither on PATH nor %s", image)
	}
	return image, nil
}

// given says whether the arguments hold that flag of Envoy.
func given(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
}
