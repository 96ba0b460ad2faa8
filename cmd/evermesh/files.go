package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// maxFile is the size of the largest file that is read, in bytes.
const maxFile = 256 << 20

// input is one create call's input, as a file holds it.
type input struct {
	where string // file:line
	row   api.KindRow
	doc   map[string]any
}

// readFiles reads the create inputs of all files; "-" is standard input. A file
// of another kind, or one that cannot be read, ends it: exit code 2.
func readFiles(names []string, stdin io.Reader) ([]input, error) {
	var out []input
	for _, name := range names {
		text, err := readFile(name, stdin)
		if err != nil {
			return nil, usagef("%s: %v", name, err)
		}
		if name == "-" {
			name = "standard input"
		}
		found, err := parseFile(name, text)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			if path, ok := errors.AsType[*os.PathError](err); ok {
				err = path.Err // the name is told already
			}
			return nil, err
		}
		defer func() { _ = f.Close() }() // only read
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("larger than %d MiB: split it", maxFile>>20)
	}
	return text, err
}

// parseFile reads a file of JSON values, each an input or a list of inputs.
func parseFile(name string, text []byte) ([]input, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if kind := foreignText(name, text); kind != "" {
		return nil, notYet(name, kind)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var out []input
	for len(bytes.TrimSpace(text[dec.InputOffset():])) > 0 {
		line := lineAt(text, dec.InputOffset())
		v, err := model.Decode(dec)
		if err != nil {
			return nil, usagef("%s:%d: not valid JSON: %s", name, lineAt(text, dec.InputOffset()), plainSyntax(err))
		}
		items, isList := v.([]any)
		if !isList {
			items = []any{v}
		}
		for i, item := range items {
			where := fmt.Sprintf("%s:%d", name, line)
			if isList {
				where += fmt.Sprintf(": item %d", i+1)
			}
			in, err := inputOf(where, item)
			if err != nil {
				return nil, err
			}
			out = append(out, in)
		}
	}
	if len(out) == 0 {
		return nil, usagef("%s: holds no resource: want the input of an aws appmesh create-… call as JSON", name)
	}
	return out, nil
}

// lineAt is the line of the first thing at or after an offset.
func lineAt(text []byte, offset int64) int {
	rest := text[offset:]
	blank := len(rest) - len(bytes.TrimLeft(rest, " \t\r\n,"))
	return 1 + bytes.Count(text[:int(offset)+blank], []byte("\n"))
}

func plainSyntax(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	return err.Error()
}

// inputOf tells what kind of resource a value is the create input of.
func inputOf(where string, v any) (input, error) {
	doc, ok := v.(map[string]any)
	if !ok {
		return input{}, usagef("%s: is not a JSON object: want the input of an aws appmesh create-… call", where)
	}
	if kind := foreignObject(doc); kind != "" {
		return input{}, notYet(where, kind)
	}
	named := map[api.Kind]bool{}
	for _, row := range api.Kinds() {
		if _, ok := doc[row.Name].(string); ok {
			named[row.Kind] = true
		}
	}
	// A route names its router and its mesh, too: what lives under another is
	// what is meant, and its parents are not.
	var meant []api.KindRow
	for _, row := range api.Kinds() {
		under := func(other api.KindRow) bool { return named[other.Kind] && other.Parent == row.Kind }
		if named[row.Kind] && !slices.ContainsFunc(api.Kinds(), under) {
			meant = append(meant, row)
		}
	}
	switch len(meant) {
	case 1:
		return input{where, meant[0], doc}, nil
	case 0:
		return input{}, usagef("%s: has none of the members that name a resource%s: want one of %s", where, misspelt(doc), strings.Join(nameMembers(), ", "))
	}
	return input{}, usagef("%s: names both a %s and a %s: give each resource an object of its own", where, meant[0].Type, meant[1].Type)
}

func nameMembers() []string {
	var out []string
	for _, row := range api.Kinds() {
		out = append(out, row.Name)
	}
	return out
}

// misspelt names a member that only its letter case keeps from naming a
// resource.
func misspelt(doc map[string]any) string {
	for member := range doc {
		for _, name := range nameMembers() {
			if member != name && strings.EqualFold(member, name) {
				return fmt.Sprintf(" (%q is written %q)", member, name)
			}
		}
	}
	return ""
}

// notYet refuses a kind of file by name.
func notYet(where, kind string) error {
	return usagef("%s: is %s, which evermesh does not read yet: give the input of the aws appmesh create-… calls as JSON", where, kind)
}

// The kinds of files that are recognised and not read yet.
const (
	kindCloudFormation = "a CloudFormation template"
	kindKubernetes     = "a Kubernetes manifest"
	kindTerraform      = "a Terraform file"
	kindYAML           = "a YAML file"
	kindAnswer         = "the answer of an aws appmesh describe-… or list-… call"
)

var (
	cloudFormationText = regexp.MustCompile(`(?m)^(AWSTemplateFormatVersion|Transform|Resources)\s*:`)
	kubernetesText     = regexp.MustCompile(`(?m)^apiVersion\s*:`)
	terraformText      = regexp.MustCompile(`(?m)^\s*((resource|data)\s+"\w+"\s+"[^"]+"|(module|provider|variable)\s+"[^"]+"|terraform|locals)\s*\{`)
)

// foreignText recognises what is not JSON, and what its name says.
func foreignText(name string, text []byte) string {
	base := strings.ToLower(filepath.Base(name))
	for _, end := range []string{".tf", ".tf.json", ".tfstate", ".tfplan", ".hcl"} {
		if strings.HasSuffix(base, end) {
			return kindTerraform
		}
	}
	if start := bytes.TrimSpace(text); len(start) == 0 || start[0] == '{' || start[0] == '[' {
		return ""
	}
	switch {
	case cloudFormationText.Match(text):
		return kindCloudFormation
	case kubernetesText.Match(text):
		return kindKubernetes
	case terraformText.Match(text):
		return kindTerraform
	case strings.HasSuffix(base, ".yaml"), strings.HasSuffix(base, ".yml"):
		return kindYAML
	}
	return ""
}

// foreignObject recognises JSON that is no create input.
func foreignObject(doc map[string]any) string {
	has := func(members ...string) bool {
		return !slices.ContainsFunc(members, func(m string) bool { return doc[m] == nil })
	}
	_, resources := doc["Resources"].(map[string]any)
	switch {
	case has("AWSTemplateFormatVersion"), resources:
		return kindCloudFormation
	case has("apiVersion", "kind"):
		return kindKubernetes
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
