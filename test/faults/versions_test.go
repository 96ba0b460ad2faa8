//go:build linux

package faults

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/ads/adstest"
)

// edits make the sources of a next release out of these: its records have a member that this release does not know, and
// resources whose names begin with newer have a newer schema.
var edits = map[string][][2]string{
	"internal/store/record.go": {
		{"const resourceSchema = 1\n", "const resourceSchema = 2\n"},
		{"\tSpec    json.RawMessage `json:\"spec\"`\n", "\tSpec    json.RawMessage `json:\"spec\"`\n\tOrigin  string `json:\"origin\"`\n"},
		{"\"spec\", \"settings\"}}", "\"spec\", \"settings\", \"origin\"}}"},
		{"Tags: kept.Tags, Spec: kept.Document, ", "Tags: kept.Tags, Spec: kept.Document, Origin: \"next\", "},
		{"\tt := resourceType(r.Key.Kind)\n", "\tt := resourceType(r.Key.Kind)\n\tif !strings.HasPrefix(r.Key.Name, \"newer\") {\n\t\tt.Schema = 1\n\t}\n"},
	},
}

// nextRelease builds it.
func nextRelease(t *testing.T) string {
	t.Helper()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	dir := t.TempDir()
	for name, changes := range edits {
		path, err := filepath.Abs(filepath.Join(root, name))
		must(t, err)
		text, err := os.ReadFile(path)
		must(t, err)
		for _, c := range changes {
			if bytes.Count(text, []byte(c[0])) != 1 {
				t.Fatalf("%s does not have %q once: bring the edits of this test up to date", name, c[0])
			}
			text = bytes.Replace(text, []byte(c[0]), []byte(c[1]), 1)
		}
		overlay.Replace[path] = filepath.Join(dir, filepath.Base(name))
		must(t, os.WriteFile(overlay.Replace[path], text, 0o600))
	}
	text, err := json.Marshal(overlay)
	must(t, err)
	file := filepath.Join(dir, "overlay.json")
	must(t, os.WriteFile(file, text, 0o600))
	return build(t, "next", root, "-overlay", file)
}

// TestNextReleaseBesideThisOne runs a release that knows more beside this one, on one etcd. What either writes the other
// reads; what this one does not know it keeps, or refuses to write.
func TestNextReleaseBesideThisOne(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	settings := on(t, etcd.endpoints()...)
	next := newReplica(t, "next", settings...)
	next.program = nextRelease(t)
	next.start()
	this := newReplica(t, "this", settings...).start()
	newer, older := next.user(), this.user()
	ctx := t.Context()
	must(t, makeShop(ctx, newer, "sides", 90, 10))
	write := func(at string, v verb, name, text string) state {
		t.Helper()
		c := older
		if at == "next" {
			c = newer
		}
		s, err := onNode(ctx, c, v, "sides", name, text, "token-"+name+text)
		must(t, err)
		return s
	}
	read := func(name string, want state) {
		t.Helper()
		for at, c := range map[string]func() (state, error){
			"next": func() (state, error) { return onNode(ctx, newer, describe, "sides", name, "", "") },
			"this": func() (state, error) { return onNode(ctx, older, describe, "sides", name, "", "") },
		} {
			got, err := c()
			must(t, err)
			if got != want {
				t.Errorf("%s describes %s as %+v, want %+v", at, name, got, want)
			}
		}
	}
	read("a", write("next", create, "a", "by-next"))
	read("a", write("this", update, "a", "by-this"))
	if stored := record(t, etcd, "sides", "a"); stored.Body["origin"] != "next" || stored.Schema != 1 {
		t.Errorf("this release did not keep the member that it does not know: %+v", stored)
	}
	read("a", write("next", update, "a", "by-next-again"))
	read("b", write("this", create, "b", "by-this"))
	read("b", write("next", update, "b", "by-next"))
	read("b", write("this", update, "b", "by-this-again"))
	if stored := record(t, etcd, "sides", "b"); stored.Body["origin"] != "next" {
		t.Errorf("this release did not keep the member that it does not know: %+v", stored)
	}

	read("newer", write("next", create, "newer", "by-next"))
	before := record(t, etcd, "sides", "newer")
	if before.Schema != 2 {
		t.Fatalf("the next release wrote schema %d: nothing is shown", before.Schema)
	}
	wantUnavailable(t, "an update of what a newer release wrote", func(ctx context.Context) error {
		_, err := onNode(ctx, older, update, "sides", "newer", "by-this", "token-refused")
		return err
	})
	wantUnavailable(t, "a delete of what a newer release wrote", func(ctx context.Context) error {
		_, err := onNode(ctx, older, remove, "sides", "newer", "", "")
		return err
	})
	if after := record(t, etcd, "sides", "newer"); after.revision != before.revision {
		t.Errorf("this release touched what a newer one wrote: it was %+v and is %+v", before, after)
	}
	read("newer", write("next", update, "newer", "by-next-again"))
	if _, err := onNode(ctx, older, remove, "sides", "a", "", ""); err != nil {
		t.Errorf("this release cannot delete what the next one wrote with the same schema: %v", err)
	}
}

// kept is a record as etcd has it.
type kept struct {
	Schema   int
	Body     map[string]any
	revision int64
}

func record(t *testing.T, etcd *cluster, mesh, node string) kept {
	t.Helper()
	var out kept
	key := fmt.Sprintf("%smesh/%s/%s/virtualNode/%s", prefix, account, mesh, node)
	got, err := etcd.members[0].dial().Get(t.Context(), key)
	must(t, err)
	if len(got.Kvs) != 1 {
		all, err := etcd.members[0].dial().Get(t.Context(), prefix+"mesh/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		must(t, err)
		t.Fatalf("%s is not in etcd, but %v", key, all.Kvs)
	}
	must(t, json.Unmarshal(got.Kvs[0].Value, &out))
	out.revision = got.Kvs[0].ModRevision
	return out
}

// previousRelease builds the release before this one: the newest tag below HEAD, or, while there is none, the parent of
// the last commit that touched the goldens of the translator. A commit that does not build is no release: then it is the
// one before.
func previousRelease(t *testing.T) (program, changelog, commit string) {
	t.Helper()
	git := func(args ...string) []byte {
		var stderr bytes.Buffer
		cmd := exec.Command("git", append([]string{"-C", root}, args...)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Logf("git %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
			return nil
		}
		return out
	}
	candidates := strings.Fields(string(git("describe", "--tags", "--abbrev=0", "HEAD^")))
	if len(candidates) == 0 {
		for _, touched := range strings.Fields(string(git("log", "-5", "--format=%H", "--", "internal/envoy/testdata/*.txtar"))) {
			candidates = append(candidates, strings.Fields(string(git("rev-parse", "--verify", touched+"^")))...)
		}
	}
	if len(candidates) == 0 {
		t.Skip("this clone has no history to build the previous release from")
	}
	for _, commit := range candidates {
		dir := t.TempDir()
		must(t, unpack(bytes.NewReader(git("archive", "--format=tar", commit)), dir))
		notes, err := os.ReadFile(filepath.Join(dir, "CHANGELOG.md"))
		must(t, err)
		path, err := tryBuild("previous", dir)
		if err == nil {
			return path, string(notes), commit
		}
		t.Logf("%s is no release: %v", commit, err)
	}
	t.Fatal("no commit before this one builds")
	return "", "", ""
}

func unpack(r io.Reader, dir string) error {
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var text []byte
			if text, err = io.ReadAll(files); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644))
			}
		}
		if err != nil {
			return err
		}
	}
}

// TestPreviousReleaseAndBack rolls the previous release to this one and back, side by side on one etcd. Each reads what
// the other wrote, and no proxy of a node, which has HTTP and TCP services, or of a gateway is sent a listener, unless the
// changelog announces it.
func TestPreviousReleaseAndBack(t *testing.T) {
	t.Parallel()
	program, before, commit := previousRelease(t)
	etcd := newCluster(t, 1)
	settings := on(t, etcd.endpoints()...)
	previous := newReplica(t, "previous", settings...)
	previous.program = program
	previous.start()
	this := newReplica(t, "this", settings...)
	key := previous.key()
	ctx := t.Context()
	must(t, makeShop(ctx, previous.user(), "roll", 90, 10))
	must(t, widen(ctx, previous.user(), "roll"))
	var all proxies
	for i := range 8 {
		all = append(all, connect(t, key, "roll", fmt.Sprintf("p%d", i), i%4 > 0, previous.xds, this.xds))
	}
	client := all[0]
	for i := range 4 {
		all = append(all, connectAs(t, key, "mesh/roll/virtualGateway/edge", fmt.Sprintf("g%d", i), i%4 > 0, previous.xds, this.xds))
	}
	all.have(t, 90, 10)
	until(t, "a proxy has the cluster of the TCP service", func() bool {
		for name := range client.Clusters(t) {
			if strings.Contains(name, "db") {
				return true
			}
		}
		return false
	})
	sent := all.sent()

	this.start()
	should := everything(t, previous, key)
	compareEverything(t, "this release reads what the previous one wrote", should, everything(t, this, key))
	must(t, shift(ctx, this.user(), "roll", 80, 20)) // by this one, to proxies of the previous
	all.have(t, 80, 20)
	previous.stop()
	must(t, shift(ctx, this.user(), "roll", 70, 30))
	all.have(t, 70, 30)
	should = everything(t, this, key)
	previous.start()
	compareEverything(t, "the previous release reads what this one wrote", should, everything(t, previous, key))
	must(t, shift(ctx, previous.user(), "roll", 60, 40))
	all.have(t, 60, 40)
	this.stop()
	must(t, shift(ctx, previous.user(), "roll", 50, 50))
	all.have(t, 50, 50)
	for i, p := range all {
		if len(p.Ends()) == 0 {
			t.Errorf("proxy %d never moved: nothing is shown", i)
		}
	}

	notes, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	must(t, err)
	announced := strings.Count(string(notes), "drains") > strings.Count(before, "drains")
	for i, p := range all {
		for _, r := range p.Responses()[sent[i]:] {
			if strings.HasPrefix(r, adstest.LDS) && !announced {
				t.Errorf("proxy %d (delta: %t) was sent %s on the way from %s to this release and back, and CHANGELOG.md has no new entry marked drains", i, p.Delta, r, commit)
			}
		}
	}
	if code, _ := previous.ready(); code != http.StatusOK {
		t.Errorf("/readyz of the previous release answers %d", code)
	}
}
