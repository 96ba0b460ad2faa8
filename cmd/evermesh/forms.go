package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// form is how a file says what it says.
type form int

const (
	formJSON     form = iota // inputs of create calls
	formYAML                 // the same, as YAML
	formTemplate             // CloudFormation
	formManifest             // Kubernetes
)

// takes are the forms of files, for messages.
const takes = "the inputs of aws appmesh create-… calls, a CloudFormation template, or Kubernetes manifests"

// foreign refuses a kind of file by name.
func foreign(where, kind string) error {
	return usagef("%s: is %s, which is not read here: want %s", where, kind, takes)
}

// The kinds of files, and of what is in them, that are recognised and not read.
const (
	kindTerraform = "a Terraform file"
	kindAnswer    = "the answer of an aws appmesh describe-… or list-… call"
	kindMixed     = "of another form than what is before it in the file"
)

var (
	cloudFormationText = regexp.MustCompile(`(?m)^["']?(AWSTemplateFormatVersion|Transform|Resources)["']?\s*:`)
	kubernetesText     = regexp.MustCompile(`(?m)^(- )?["']?apiVersion["']?\s*:`)
	terraformText      = regexp.MustCompile(`(?m)^\s*((resource|data)\s+"\w+"\s+"[^"]+"|(module|provider|variable)\s+"[^"]+"|terraform|locals)\s*\{`)
	yamlText           = regexp.MustCompile(`(?m)^(---|(- +)?["']?\w+["']?\s*:(\s|$))`)
)

// formOf recognises the form of a text, by what it begins with and by its file's
// name. foreign is not empty for one that is not read.
func formOf(name string, text []byte) (f form, foreign string) {
	base := strings.ToLower(filepath.Base(name))
	for _, end := range []string{".tf", ".tf.json", ".tfstate", ".tfplan", ".hcl"} {
		if strings.HasSuffix(base, end) {
			return 0, kindTerraform
		}
	}
	if start := bytes.TrimSpace(text); len(start) == 0 || start[0] == '{' || start[0] == '[' {
		return formOfJSON(text), ""
	}
	switch {
	case cloudFormationText.Match(text):
		return formTemplate, ""
	case kubernetesText.Match(text):
		return formManifest, ""
	case terraformText.Match(text):
		return 0, kindTerraform
	case strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".yml"), yamlText.Match(text):
		return formYAML, ""
	}
	return formJSON, ""
}

// formOfJSON is the form of the first value of a text. What cannot be read is
// told when it is read in earnest.
func formOfJSON(text []byte) form {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	v, err := model.Decode(dec)
	if err != nil {
		// A template in YAML's flow form, whose tags are no JSON.
		if bytes.Contains(text, []byte("AWSTemplateFormatVersion")) {
			return formTemplate
		}
		return formJSON
	}
	if list, ok := v.([]any); ok && len(list) > 0 {
		v = list[0]
	}
	doc, _ := v.(map[string]any)
	return formOfObject(doc)
}

// formOfObject is the form that an object is of.
func formOfObject(doc map[string]any) form {
	has := func(member string) bool { return doc[member] != nil }
	_, resources := doc["Resources"].(map[string]any)
	switch {
	case has("AWSTemplateFormatVersion"), resources:
		return formTemplate
	case has("apiVersion") && has("kind"):
		return formManifest
	}
	return formJSON
}

// foreignObject recognises an object that is no create input.
func foreignObject(doc map[string]any) string {
	has := func(members ...string) bool {
		return !slices.ContainsFunc(members, func(m string) bool { return doc[m] == nil })
	}
	switch {
	case formOfObject(doc) != formJSON:
		return kindMixed
	case has("terraform_version"), has("resource", "provider"), has("planned_values"):
		return kindTerraform
	}
	for _, row := range api.Kinds() {
		_, wrapped := doc[row.Wrapper].(map[string]any)
		_, listed := doc[row.List].([]any)
		if wrapped || listed {
			return kindAnswer
		}
	}
	return ""
}
