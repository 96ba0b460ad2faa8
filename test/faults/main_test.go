//go:build linux

package faults

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
)

var (
	soak   = flag.Duration("for", 0, "how long the tests with chance in them go on; 0: as long as make test allows")
	seeded = flag.Uint64("seed", 0, "seed of the tests with chance in them; 0: another one every time")
)

// part is the variable that makes this test program play a part instead of running tests.
const part = "FAULTS_TEST_PART"

// patience bounds everything that has to happen; much, because a machine may be busy.
const patience = 90 * time.Second

// built are the programs that the tests run, by the label of what they were built from.
var built struct {
	mu       sync.Mutex
	dir      string
	programs map[string]string
}

func TestMain(m *testing.M) {
	testenv.HoldSmallDisk()
	if words := strings.Split(os.Getenv(part), "\n"); words[0] != "" {
		if err := play(words[0], words[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := manyAtOnce(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// manyAtOnce lets more tests run at once than there are processors, unless the command line says how many: most of the
// time they wait for what they broke.
func manyAtOnce() error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", "7")
}

// play is what the program does when it is started as something else than tests.
func play(name string, words []string) error {
	switch name {
	case "etcd":
		return playEtcd(words)
	}
	return fmt.Errorf("%q is no part", name)
}

// as makes the environment in which this program plays a part.
func as(name string, words ...string) []string {
	return append(os.Environ(), part+"="+strings.Join(append([]string{name}, words...), "\n"))
}

// evermeshd is the program as the sources are now.
func evermeshd(t testing.TB) string {
	t.Helper()
	return build(t, "this", root)
}

// root is the directory of the module.
const root = "../.."

// build builds the evermeshd of the module in the directory sources, once for each label; arguments are further ones of
// `go build`.
func build(t testing.TB, label, sources string, arguments ...string) string {
	t.Helper()
	path, err := tryBuild(label, sources, arguments...)
	must(t, err)
	return path
}

func tryBuild(label, sources string, arguments ...string) (string, error) {
	built.mu.Lock()
	defer built.mu.Unlock()
	if path, ok := built.programs[label]; ok {
		return path, nil
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "evermesh-faults")
		if err != nil {
			return "", err
		}
		built.dir, built.programs = dir, map[string]string{}
	}
	path := filepath.Join(built.dir, "evermeshd-"+label)
	arguments = append([]string{"build", "-trimpath", "-ldflags", "-X main.version=" + label, "-o", path}, arguments...)
	cmd := exec.Command("go", append(arguments, "./cmd/evermeshd")...)
	cmd.Dir = sources
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does, so that most is built already
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build evermeshd (%s): %w\n%s", label, err, out)
	}
	built.programs[label] = path
	return path, nil
}

// chance is the source of a test's chances. Its seed is in the test's log.
func chance(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seeded
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again: go test ./test/faults -run '^%s$' -seed %d", t.Name(), seed)
	return rand.New(rand.NewPCG(seed, seed))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls holds until it is true; what says what was waited for.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !within(patience, holds) {
		t.Fatalf("not true within %v: %s", patience, what)
	}
}

func within(limit time.Duration, holds func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// keep makes a directory that stays when the test fails, for what tells why; its path is logged then.
func keep(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "evermesh-faults-kept-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what is known is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}
