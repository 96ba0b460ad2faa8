package policy_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/evermesh/evermesh/internal/policy"
)

const account = "111122223333"

// cases are the files of a directory of testdata, by the first line of each.
func cases(t *testing.T, directory string, check func(t *testing.T, a *txtar.Archive)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", directory, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", directory, err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		title, _, _ := strings.Cut(string(a.Comment), "\n")
		t.Run(title, func(t *testing.T) { check(t, a) })
	}
}

// TestDecisions reads testdata/decisions: policies, and what they make of requests.
// A line is action, resource, condition keys, who asks, and what is decided by which
// layer's statement; \u0020 and the like stand for characters that cannot be seen.
func TestDecisions(t *testing.T) {
	cases(t, "decisions", func(t *testing.T, a *txtar.Archive) {
		var set policy.Set
		lines := 0
		for _, f := range a.Files {
			layer, _, _ := strings.Cut(f.Name, ":")
			if layer != "requests" {
				add(t, &set, layer, string(f.Data))
				continue
			}
			for line := range strings.Lines(string(f.Data)) {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				lines++
				asked, want, _ := strings.Cut(line, "=>")
				d := policy.Evaluate(request(t, strings.TrimSpace(asked)), set)
				if got := said(d); got != strings.TrimSpace(want) {
					t.Errorf("%s\n\tgot %s", line, got)
				}
			}
		}
		if lines == 0 {
			t.Error("the file asks nothing")
		}
	})
}

func add(t *testing.T, set *policy.Set, layer, text string) {
	t.Helper()
	d := parse(t, text)
	var err error
	switch layer {
	case "identity":
		set.Identity = append(set.Identity, d)
	case "boundary":
		set.Boundary, err = d, d.ForIdentity()
	case "session":
		set.Session, err = append(set.Session, d), d.ForIdentity()
	case "guard":
		set.Guards, err = append(set.Guards, d), d.ForIdentity()
	case "resource":
		set.Resource = d
	case "trust":
		set.Resource, set.Trust = d, true
	default:
		t.Fatalf("there is no layer %q", layer)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// said is a decision in a line: its outcome, layer and statement.
func said(d policy.Decision) string {
	s := fmt.Sprintf("%s: %s", d.Outcome, d.Layer)
	if d.Statement != nil {
		s += " " + d.Statement.Name()
	}
	return s
}

// request reads the left half of a line.
func request(t *testing.T, line string) policy.Request {
	t.Helper()
	fields := strings.Fields(line)
	for i := range fields {
		if plain, err := strconv.Unquote(`"` + fields[i] + `"`); err == nil {
			fields[i] = plain
		}
	}
	r := policy.Request{Action: fields[0], Resource: fields[1]}
	keys := policy.Map{}
	for _, f := range fields[2:] {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case !ok:
			t.Fatalf("%s: want key=value, not %q", line, f)
		case key == "as":
			r.Principal = principal(t, value, keys)
		default:
			keys[policy.KeyName(key)] = append(keys[policy.KeyName(key)], strings.Split(value, ",")...)
		}
	}
	r.Keys = keys
	return r
}

// principal reads who asks: user/alice, 444455556666:user/carl, role/ops/session,
// service/ec2.amazonaws.com, provider/arn…; #ID gives a user that id.
func principal(t *testing.T, text string, keys policy.Map) policy.Principal {
	t.Helper()
	kind, name, _ := strings.Cut(text, "/")
	p := policy.Principal{Account: account, ID: "AIDAOFNOOTHERMENTION"}
	if of, k, ok := strings.Cut(kind, ":"); ok {
		p.Account, kind = of, k
	}
	switch kind {
	case "user":
		if plain, id, ok := strings.Cut(name, "#"); ok {
			name, p.ID = plain, id
		}
		p.ARN = "arn:aws:iam::" + p.Account + ":user/" + name
		keys["aws:username"] = []string{name}
	case "role":
		role, _, _ := strings.Cut(name, "/")
		p.ARN = "arn:aws:sts::" + p.Account + ":assumed-role/" + name
		p.Issuer = "arn:aws:iam::" + p.Account + ":role/" + role
	case "service":
		p = policy.Principal{Service: name}
	case "provider":
		p = policy.Principal{Federated: name}
	default:
		t.Fatalf("nobody is %q", text)
	}
	keys["aws:principalarn"] = []string{p.ARN}
	return p
}

// TestConditions reads testdata/conditions: in each part of a file a Condition, and
// then requests that meet it or do not.
func TestConditions(t *testing.T) {
	cases(t, "conditions", func(t *testing.T, a *txtar.Archive) {
		for _, f := range a.Files {
			t.Run(f.Name, func(t *testing.T) {
				condition, lines, _ := strings.Cut(string(f.Data), "\n\n")
				set := policy.Set{Identity: []*policy.Document{parse(t, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": `+condition+`}}`)}}
				for line := range strings.Lines(lines) {
					if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
						continue
					}
					keys, want, ok := strings.Cut(line, "=>")
					if !ok || !slices.Contains([]string{"met", "unmet"}, strings.TrimSpace(want)) {
						t.Fatalf("%s: say => met or => unmet", line)
					}
					got := "unmet"
					if policy.Evaluate(request(t, "a:B * "+keys), set).Outcome == policy.Allowed {
						got = "met"
					}
					if got != strings.TrimSpace(want) {
						t.Errorf("%s: it is %s", line, got)
					}
				}
			})
		}
	})
}
