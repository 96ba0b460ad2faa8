package bootstrap

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// oldType is the type of a message of Envoy's API of version 2.
var oldType = regexp.MustCompile(`^type\.googleapis\.com/(envoy\.(?:[a-z0-9_]+\.)*v2(?:alpha[0-9]*)?\.\w+)$`)

// oldKeys are the keys that only version 2 had, by the list in static resources below which they stood.
var oldKeys = map[string][]string{
	"clusters": {"hosts", "tls_context", "tlsContext"},
}

// refuseOldVersion refuses what is written for version 2 of Envoy's API (IMG-016), which Envoy itself would refuse in
// words that say nothing about versions. at is where the value stands.
func refuseOldVersion(at string, value any) error {
	switch v := value.(type) {
	case object:
		return refuseOldObject(at, v)
	case list:
		for i, item := range v {
			if err := refuseOldVersion(fmt.Sprintf("%s[%d]", at, i), item); err != nil {
				return err
			}
		}
	}
	return nil
}

func refuseOldObject(at string, v object) error {
	name, _ := v["@type"].(string)
	if old := oldType.FindStringSubmatch(name); old != nil {
		return ofVersion2(at, "has the type "+old[1])
	}
	_, named := v["name"].(string)
	_, config := v["config"].(object)
	if named && config && v["typed_config"] == nil && v["typedConfig"] == nil {
		return ofVersion2(at, "has config in place of typed_config")
	}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		below := strings.TrimPrefix(at+"."+key, ".")
		if items, ok := v[key].(list); ok && (at == "static_resources" || at == "staticResources") {
			for i, item := range items {
				for _, old := range oldKeys[key] {
					if o, _ := item.(object); o[old] != nil {
						return ofVersion2(fmt.Sprintf("%s[%d]", below, i), "has "+old)
					}
				}
			}
		}
		if err := refuseOldVersion(below, v[key]); err != nil {
			return err
		}
	}
	return nil
}

func ofVersion2(at, what string) error {
	return fmt.Errorf("%s %s, of version 2 of Envoy's API: only version 3 is taken", at, what)
}
