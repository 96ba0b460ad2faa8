package bootstrap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

type userFile struct{ variable, path string }

// The variables that name them.
const (
	tracingFile   = "ENVOY_TRACING_CFG_FILE"
	statsFile     = "ENVOY_STATS_CONFIG_FILE"
	sinksFile     = "ENVOY_STATS_SINKS_CFG_FILE"
	resourcesFile = "ENVOY_RESOURCES_CONFIG_FILE"
)

// FileVariables are the variables that name files of the user, in the order in which the files are merged.
func FileVariables() []string { return []string{tracingFile, statsFile, sinksFile, resourcesFile} }

// userFiles are the files to merge, in the order in which they are.
func userFiles(b settings.BootstrapSettings) []userFile {
	return slices.DeleteFunc([]userFile{
		{tracingFile, b.TracingFile}, {statsFile, b.StatsFile}, {sinksFile, b.SinksFile}, {resourcesFile, b.ResourcesFile},
	}, func(f userFile) bool { return f.path == "" })
}

// merge adds the user's files to the bootstrap, by the rules of App Mesh's agent: each file may have any part of a
// bootstrap, tracing and statsConfig may exist once, sinks and static resources are appended, any other key replaces the
// generated one, which is worth a warning.
func merge(b settings.BootstrapSettings, doc object, files map[string][]byte) (warnings []string, _ error) {
	for _, f := range userFiles(b) {
		more, err := mergeFile(doc, f, files[f.path])
		if err != nil {
			return nil, settings.Wrong(f.variable, "%s: %s", f.path, strings.Join(strings.Fields(err.Error()), " "))
		}
		for _, w := range more {
			warnings = append(warnings, fmt.Sprintf("%s: %s: %s", f.variable, f.path, w))
		}
	}
	return warnings, nil
}

func mergeFile(doc object, f userFile, text []byte) (warnings []string, _ error) {
	user, err := readYAML(text)
	if err != nil {
		return nil, err
	}
	if len(user) == 0 && f.variable == resourcesFile {
		return []string{"is empty and is ignored"}, nil
	}
	if len(user) == 0 {
		return nil, errors.New("is empty")
	}
	if err := refuseOldVersion("", user); err != nil {
		return nil, err
	}
	if user, err = camel(user); err != nil {
		return nil, err
	}
	if f.variable == tracingFile && user["tracing"] == nil {
		warnings = append(warnings, "has no tracing")
	}
	for _, key := range slices.Sorted(maps.Keys(user)) {
		warning, err := mergeKey(doc, key, user[key])
		if err != nil {
			return nil, err
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	if sinks, _ := doc["statsSinks"].(list); f.variable == sinksFile && len(sinks) == 0 {
		return nil, errors.New("has no statsSinks")
	}
	return warnings, nil
}

// readYAML reads a user's file. Keys, and what looks like a time, are texts, as they are to Envoy.
func readYAML(text []byte) (object, error) {
	var (
		document, more yaml.Node
		user           object
	)
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one document")
	}
	keepTexts(&document)
	err := document.Decode(&user)
	return user, err
}

func keepTexts(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!timestamp" {
		n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
	}
	for i, below := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && below.Kind == yaml.ScalarNode && below.ShortTag() != "!!merge" {
			below.Tag = "!!str"
		}
		keepTexts(below)
	}
}

func mergeKey(doc object, key string, value any) (warning string, _ error) {
	old, exists := doc[key]
	switch key {
	case "tracing", "statsConfig":
		if exists {
			return "", fmt.Errorf("%s is already there", key)
		}
		doc[key] = value
	case "statsSinks":
		joined, err := appended(old, value)
		if err != nil {
			return "", fmt.Errorf("statsSinks: %w", err)
		}
		doc[key] = joined
	case "admin":
		if _, err := adminOf(value); err != nil {
			return "", fmt.Errorf("admin: %w", err)
		}
		doc[key] = value
		return replaces(key, old, value), nil
	case "staticResources":
		return "", mergeResources(doc, value)
	default:
		doc[key] = value
		if exists {
			return replaces(key, old, value), nil
		}
	}
	return "", nil
}

func replaces(key string, old, value any) string {
	return fmt.Sprintf("replaces the generated %s: OLD %s, NEW %s", key, outline(old), outline(value))
}

func mergeResources(doc object, value any) error {
	if value == nil {
		return nil
	}
	resources, ok := value.(object)
	if !ok {
		return errors.New("staticResources is no mapping")
	}
	resources, err := camel(resources)
	if err != nil {
		return err
	}
	mine, _ := doc["staticResources"].(object)
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		joined, err := appended(mine[name], resources[name])
		if err != nil {
			return fmt.Errorf("staticResources.%s: %w", name, err)
		}
		mine[name] = joined
	}
	return nil
}

// appended is both lists; nothing after a key is an empty one.
func appended(old, more any) (list, error) {
	before, _ := old.(list)
	if more == nil {
		return before, nil
	}
	items, ok := more.(list)
	if !ok {
		return nil, errors.New("is no list")
	}
	return append(slices.Clip(before), items...), nil
}

// outline is a value as a log may show it: a user's values may be secret, the names of its parts are not.
func outline(value any) string {
	switch v := value.(type) {
	case object:
		return "{" + strings.Join(slices.Sorted(maps.Keys(v)), ", ") + "}"
	case list:
		return fmt.Sprintf("a list of %d", len(v))
	case nil:
		return "nothing"
	}
	return "a value"
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
