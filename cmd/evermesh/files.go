package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/document"
	"github.com/evermesh/evermesh/internal/manifest"
	"github.com/evermesh/evermesh/internal/model"
)

// maxFile is the size of the largest file that is read, in bytes.
const maxFile = 256 << 20

// files is what files come to, before the model of the API is asked.
type files struct {
	inputs []input
	// skipped, notes and faults are lines for a person: what was left out, what
	// was taken for granted, and what must be corrected.
	skipped, notes, faults []string
	templates              templates
}

// file is a file of another form than inputs.
type file struct {
	slot int // its place among the files
	name string
	text []byte
}

// filesReader reads files of all forms. What it reads of one can depend on all:
// manifests refer to each other, and templates to what others export.
type filesReader struct {
	options   fileOptions
	slots     [][]input // of each file
	manifests []file
	templates templates
	out       files
}

// readFiles reads files; "-" is standard input. A file of a form that is not
// read, or one that cannot be read, ends it: exit code 2.
func readFiles(names []string, stdin io.Reader, o fileOptions) (files, error) {
	r := &filesReader{options: o, slots: make([][]input, len(names)), templates: templates{options: o}}
	for i, name := range names {
		text, err := readFile(name, stdin)
		if err != nil {
			return files{}, usagef("%s: %v", name, err)
		}
		if name == "-" {
			name = "standard input"
		}
		if err := r.add(i, name, bytes.TrimPrefix(text, []byte("\ufeff"))); err != nil {
			return files{}, err
		}
	}
	if err := r.readManifests(); err != nil {
		return files{}, err
	}
	if err := r.readTemplates(); err != nil {
		return files{}, err
	}
	r.out.inputs = slices.Concat(r.slots...)
	return r.out, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, bareOpen(err)
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

// add reads a file of inputs, and keeps one of another form for later.
func (r *filesReader) add(slot int, name string, text []byte) (err error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{{")) {
		return usagef("%s:%d: not valid YAML%s", name, lineAt(text, 0), document.Rendered)
	}
	f, kind := formOf(name, text)
	if kind != "" {
		return foreign(name, kind)
	}
	switch f {
	case formTemplate:
		r.templates.files = append(r.templates.files, file{slot, name, text})
		return nil
	case formManifest:
		r.manifests = append(r.manifests, file{slot, name, text})
		return nil
	case formYAML:
		r.slots[slot], err = parseYAML(name, text)
	default:
		r.slots[slot], err = parseJSON(name, text)
	}
	if err == nil && len(r.slots[slot]) == 0 {
		err = usagef("%s: holds no resource: want %s", name, takes)
	}
	return err
}

// readManifests makes the inputs of the Kubernetes manifests.
func (r *filesReader) readManifests() error {
	if len(r.manifests) == 0 {
		if r.options.mesh != "" {
			return usagef("--mesh is the mesh of Kubernetes manifests, and no file has any")
		}
		return nil
	}
	m, err := model.AppMesh()
	if err != nil {
		return err
	}
	var reader manifest.Reader
	slots := map[string]int{}
	for _, f := range r.manifests {
		reader.Add(f.name, f.text)
		slots[f.name] = f.slot
	}
	result := reader.Resolve(m, manifest.Options{Mesh: r.options.mesh})
	for _, found := range result.Resources {
		row, _ := found.Kind.Row()
		in := input{where: found.Place.String(), row: row, doc: found.Doc, at: func(path string) string { return found.At(path).String() }}
		r.slots[slots[found.File]] = append(r.slots[slots[found.File]], in)
	}
	for _, s := range result.Skipped {
		r.out.skipped = append(r.out.skipped, s.String())
	}
	for _, n := range result.Notes {
		r.out.notes = append(r.out.notes, n.String())
	}
	for _, f := range result.Faults {
		r.out.faults = append(r.out.faults, f.String())
	}
	return nil
}

// readTemplates makes the inputs of the CloudFormation templates.
func (r *filesReader) readTemplates() error {
	if len(r.templates.files) == 0 {
		return r.options.unusedTemplateFlag()
	}
	r.out.templates = r.templates
	taken := map[string]bool{}
	for _, t := range r.templates.parse() {
		for _, found := range t.Resources {
			row, _ := found.Kind.Row()
			r.slots[t.slot] = append(r.slots[t.slot], input{where: found.Position.String(), row: row, doc: found.Doc, at: func(path string) string {
				at, _ := found.At(path)
				return at.String()
			}})
		}
		for _, s := range t.Skipped {
			r.out.skipped = append(r.out.skipped, s.String())
		}
		for _, p := range t.problems {
			r.out.faults = append(r.out.faults, p.String())
		}
		for _, name := range t.Takes {
			taken[name] = true
		}
	}
	if len(r.out.faults) > 0 {
		return nil // a template that could not be read may take it
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(r.options.parameters)) {
		if !taken[name] {
			unknown = append(unknown, name)
		}
	}
	if unknown != nil {
		return usagef("no template takes the parameter %s: they take %s", strings.Join(unknown, ", "), listOr(slices.Sorted(maps.Keys(taken)), "none"))
	}
	return nil
}

// listOr joins names, or is the word for none.
func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}
