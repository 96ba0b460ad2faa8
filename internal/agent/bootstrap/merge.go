package bootstrap

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// ReadUserFiles reads the user's files that go into the bootstrap, by path. A file that cannot be read, or a
// sampling rule file that cannot be used, is a *settings.ConfigError.
func ReadUserFiles(b settings.BootstrapSettings) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, f := range userFiles(b) {
		text, err := os.ReadFile(f.path)
		if err != nil {
			return nil, settings.Wrong(f.variable, "%v", err)
		}
		files[f.path] = text
	}
	if x := b.Tracing.XRay; x != nil && x.Manifest != "" {
		text, err := os.ReadFile(x.Manifest)
		if err == nil {
			err = checkManifest(text)
		}
		if err != nil {
			return nil, settings.Wrong("XRAY_SAMPLING_RULE_MANIFEST", "%s: %v", x.Manifest, err)
		}
		files[x.Manifest] = text
	}
	return files, nil
}

type userFile struct{ variable, path, wants string }

// userFiles are the files to merge, in the order in which they are. wants is the key that must come out of it.
func userFiles(b settings.BootstrapSettings) []userFile {
	return slices.DeleteFunc([]userFile{
		{"ENVOY_TRACING_CFG_FILE", b.TracingFile, "tracing"},
		{"ENVOY_STATS_CONFIG_FILE", b.StatsFile, ""},
		{"ENVOY_STATS_SINKS_CFG_FILE", b.SinksFile, "statsSinks"},
		{"ENVOY_RESOURCES_CONFIG_FILE", b.ResourcesFile, ""},
	}, func(f userFile) bool { return f.path == "" })
}

// merge adds the user's files to the bootstrap: tracing and statsConfig may exist once, sinks and static resources
// are appended, any other key replaces the generated one.
func merge(b settings.BootstrapSettings, doc object, files map[string][]byte) error {
	for _, f := range userFiles(b) {
		var user object
		if err := yaml.Unmarshal(files[f.path], &user); err != nil {
			return settings.Wrong(f.variable, "%s: %s", f.path, strings.Join(strings.Fields(err.Error()), " "))
		}
		if len(user) == 0 {
			if f.variable == "ENVOY_RESOURCES_CONFIG_FILE" {
				continue
			}
			return settings.Wrong(f.variable, "%s is empty", f.path)
		}
		user, err := camel(user)
		if err != nil {
			return settings.Wrong(f.variable, "%s: %v", f.path, err)
		}
		if f.wants != "" && user[f.wants] == nil {
			return settings.Wrong(f.variable, "%s has no %s", f.path, f.wants)
		}
		for _, key := range slices.Sorted(maps.Keys(user)) {
			if err := mergeKey(doc, key, user[key]); err != nil {
				return settings.Wrong(f.variable, "%s: %v", f.path, err)
			}
		}
	}
	return nil
}

func mergeKey(doc object, key string, value any) error {
	old, exists := doc[key]
	switch key {
	case "tracing", "statsConfig":
		if exists {
			return fmt.Errorf("%s is already there", key)
		}
		doc[key] = value
	case "statsSinks":
		joined, err := appended(old, value)
		if err != nil {
			return fmt.Errorf("statsSinks: %w", err)
		}
		doc[key] = joined
	case "staticResources":
		resources, ok := value.(object)
		mine, _ := old.(object)
		if !ok {
			return fmt.Errorf("%s is no mapping", key)
		}
		resources, err := camel(resources)
		if err != nil {
			return err
		}
		for name, more := range resources {
			joined, err := appended(mine[name], more)
			if err != nil {
				return fmt.Errorf("staticResources.%s: %w", name, err)
			}
			mine[name] = joined
		}
	default:
		doc[key] = value
	}
	return nil
}

func appended(old, more any) (list, error) {
	items, ok := more.(list)
	if !ok {
		return nil, fmt.Errorf("is no list")
	}
	before, _ := old.(list)
	return append(slices.Clip(before), items...), nil
}

// camel spells an object's own keys as the generated ones are. Keys below may keep the user's spelling: Envoy takes
// both, and some maps have keys that are data.
func camel(in object) (object, error) {
	out := object{}
	for key, value := range in {
		words := strings.Split(key, "_")
		for i, w := range words[1:] {
			if w != "" {
				words[i+1] = strings.ToUpper(w[:1]) + w[1:]
			}
		}
		name := strings.Join(words, "")
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("%s is there in both spellings", name)
		}
		out[name] = value
	}
	return out, nil
}
