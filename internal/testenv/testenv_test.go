package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

func TestEnvoyIsWhereItIsSaidToBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "envoy")
	t.Setenv("ENVOY_PATH", file)
	if path, err := FindEnvoy(); err == nil {
		t.Errorf("found %s, which does not exist", path)
	}
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if path := Envoy(t); path != file {
		t.Errorf("found %s, want ENVOY_PATH", path)
	}
	t.Setenv("ENVOY_PATH", "")
	t.Setenv("PATH", filepath.Dir(file))
	if path := Envoy(t); path != file {
		t.Errorf("found %s, want the one on PATH", path)
	}
	t.Setenv("PATH", "")
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	if path, err := FindEnvoy(); err == nil && path != filepath.Join(root, "build", "tools", "bin", "envoy") {
		t.Errorf("found %s, want the module's", path)
	}
}

func TestEventuallyAllGoesOn(t *testing.T) {
	asked := 0
	EventuallyAll(t, "ten", 10, func() int { asked++; return asked / 2 })
	if asked != 20 {
		t.Errorf("asked %d times", asked)
	}
}

func TestEventuallyAsksAgain(t *testing.T) {
	asked := 0
	Eventually(t, "the third time", func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}
