package logs

import (
	"log/slog"
	"slices"
	"strings"
)

// Environment logs the variables that steer the agent, of lines "NAME=value", as App Mesh's agent did. Of those that it
// reads none is secret. Others may begin in the same way and be so: what is named like a secret, and is no file's name, is
// not told.
func Environment(log *slog.Logger, lines []string) {
	for _, line := range slices.Sorted(slices.Values(lines)) {
		name, value, _ := strings.Cut(line, "=")
		if !slices.ContainsFunc([]string{"ENVOY_", "APPMESH_", "APPNET_", "EVERMESH_"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if value != "" && namedSecret(name) {
			value = "[redacted]"
		}
		log.Info("environment", "variable", name, "value", value)
	}
}

func namedSecret(name string) bool {
	upper := strings.ToUpper(name)
	if strings.HasSuffix(upper, "_FILE") || strings.HasSuffix(upper, "_PATH") {
		return false
	}
	return slices.ContainsFunc([]string{"SECRET", "TOKEN", "PASSWORD", "PASSWD", "_KEY", "CREDENTIAL"}, func(word string) bool { return strings.Contains(upper, word) })
}
