package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
)

// checkManifest refuses a file of XRAY_SAMPLING_RULE_MANIFEST that Envoy's tracer would leave aside with a line in
// its log, sampling by its own default then. Version 1 is none of its.
func checkManifest(text []byte) error {
	type rule struct {
		FixedTarget *int64   `json:"fixed_target"`
		Rate        *float64 `json:"rate"`
		Host        *string  `json:"host"`
		Method      *string  `json:"http_method"`
		Path        *string  `json:"url_path"`
	}
	var manifest struct {
		Version int    `json:"version"`
		Default *rule  `json:"default"`
		Rules   []rule `json:"rules"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return fmt.Errorf("holds no sampling rules in JSON: %w", err)
	}
	if manifest.Version != 2 {
		return fmt.Errorf("has version %d: only 2 is supported", manifest.Version)
	}
	if manifest.Default == nil || manifest.Default.Host != nil || manifest.Default.Method != nil || manifest.Default.Path != nil {
		return errors.New("must have a default with fixed_target and rate alone")
	}
	for i, r := range append([]rule{*manifest.Default}, manifest.Rules...) {
		name := "default"
		if i > 0 {
			name = fmt.Sprintf("rules[%d]", i-1)
		}
		switch {
		case r.FixedTarget == nil || *r.FixedTarget < 0:
			return fmt.Errorf("%s must have a fixed_target of 0 or more", name)
		case r.Rate == nil || *r.Rate < 0 || *r.Rate > 1:
			return fmt.Errorf("%s must have a rate from 0 to 1", name)
		case i > 0 && (r.Host == nil || r.Method == nil || r.Path == nil):
			return fmt.Errorf("%s must have host, http_method and url_path", name)
		}
	}
	return nil
}
