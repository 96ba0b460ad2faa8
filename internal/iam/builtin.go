package iam

import (
	"embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/policy"
)

// builtinFiles are AWS's managed policies, each as AWS publishes it; ReadOnlyAccess is
// cut to the services that are offered here. Those named Evermesh… are ours, for what
// evermesh: actions do.
//
//go:embed policies
var builtinFiles embed.FS

// builtinAccount stands where an ARN has an account: arn:aws:iam::aws:policy/NAME.
const builtinAccount = "aws"

// builtin is one of AWS's managed policies, ready to be asked.
type builtin struct {
	managed
	document *policy.Document
}

// linkedOnly says that it is for service-linked roles alone (IAM-025).
func (b *builtin) linkedOnly() bool { return b.Path == "/aws-service-role/" }

// builtins reads AWS's managed policies, by name.
func builtins() (map[string]*builtin, error) {
	entries, err := builtinFiles.ReadDir("policies")
	if err != nil {
		return nil, err
	}
	out := map[string]*builtin{}
	for _, e := range entries {
		text, err := builtinFiles.ReadFile("policies/" + e.Name())
		if err != nil {
			return nil, err
		}
		var file struct {
			Path                   string
			DefaultVersionID       string `json:"DefaultVersionId"`
			CreateDate, UpdateDate time.Time
			Document               json.RawMessage
		}
		if err := json.Unmarshal(text, &file); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
		name := strings.TrimSuffix(e.Name(), ".json")
		b := &builtin{managed: managed{
			Name: name, Path: file.Path, ID: fixedID(policyID, name), Created: file.CreateDate, Updated: file.UpdateDate, Default: file.DefaultVersionID,
			Versions: []version{{ID: file.DefaultVersionID, Created: file.UpdateDate, Document: string(file.Document)}},
		}}
		if b.document, err = policy.Parse(string(file.Document)); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
		out[name] = b
	}
	return out, nil
}

// builtin finds one of AWS's managed policies by its ARN, which has its path.
func findBuiltin(all map[string]*builtin, arn string) *builtin {
	account, kind, path, name, ok := ParseARN(arn)
	if !ok || account != builtinAccount || kind != "policy" {
		return nil
	}
	if b := all[name]; b != nil && b.Path == path {
		return b
	}
	return nil
}

// copied is a copy that a call may show.
func (b *builtin) copied() *managed {
	m := b.managed
	m.Versions = slices.Clone(m.Versions)
	return &m
}
