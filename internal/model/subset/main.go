// Command subset makes the service models of package model from the public ones
// that botocore ships: the operations that a mesh needs, every shape that these
// reach, and no prose. services.txt says which. Run it from the module's root as
// `go run ./internal/model/subset DIR`, where DIR is botocore's data folder.
package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./internal/model/subset DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "subset:", err)
		os.Exit(1)
	}
}

// service is a paragraph of services.txt: a line `name: folder/version`, and the
// names of operations on lines below it.
type service struct {
	name, from string
	operations []string
}

func run(dir string) error {
	services, err := read("internal/model/subset/services.txt")
	if err != nil {
		return err
	}
	for _, s := range services {
		doc, err := load(filepath.Join(dir, s.from, "service-2.json.gz"))
		if err != nil {
			return err
		}
		text, err := s.cut(doc)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := os.WriteFile(filepath.Join("internal/model", s.name+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func read(file string) ([]service, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []service
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if name, from, ok := strings.Cut(line, ":"); ok {
			out = append(out, service{name: strings.TrimSpace(name), from: strings.TrimSpace(from)})
		} else if words := strings.Fields(line); len(words) > 0 {
			last := &out[len(out)-1]
			last.operations = append(last.operations, words...)
		}
	}
	return out, nil
}

func load(file string) (map[string]any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	return doc, json.NewDecoder(unpacked).Decode(&doc)
}

// cut leaves of a model what the service's operations need.
func (s service) cut(doc map[string]any) ([]byte, error) {
	all, shapes := doc["operations"].(map[string]any), doc["shapes"].(map[string]any)
	operations, kept := map[string]any{}, map[string]any{}
	var keep func(v any)
	keep = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if name, ok := v["shape"].(string); ok && kept[name] == nil {
				kept[name] = shapes[name]
				keep(shapes[name])
			}
			for _, inner := range v {
				keep(inner)
			}
		case []any:
			for _, inner := range v {
				keep(inner)
			}
		}
	}
	for _, name := range s.operations {
		op, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("there is no operation %s", name)
		}
		operations[name] = op
		keep(op)
	}
	for _, shape := range kept {
		plain(shape.(map[string]any))
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	err := enc.Encode(map[string]any{"metadata": bare(doc["metadata"], false), "operations": bare(operations, true), "shapes": bare(kept, true)})
	return buf.Bytes(), err
}

// plain takes a pattern that is not one of Go's off a shape: what it refused, the
// service says in its own words.
func plain(shape map[string]any) {
	if pattern, ok := shape["pattern"].(string); ok {
		if _, err := regexp.Compile(`^(?:` + pattern + `)$`); err != nil {
			delete(shape, "pattern")
		}
	}
}

// prose is what a model says to people, and to clients alone.
var prose = []string{
	"documentation", "documentationUrl", "auth", "authtype", "endpoint", "deprecated", "deprecatedMessage", "deprecatedSince",
	"staticContextParams", "endpointdiscovery",
}

// bare returns v without prose. What stands in named is keyed by names of the
// service's, which mean nothing here.
func bare(v any, named bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, inner := range v {
			if named || !slices.Contains(prose, k) {
				out[k] = bare(inner, !named && k == "members")
			}
		}
		return out
	case []any:
		for i := range v {
			v[i] = bare(v[i], false)
		}
	}
	return v
}
