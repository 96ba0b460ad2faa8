package agent

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What Envoy could not open, or would wait for, or was put there by somebody else, is not what it is told to open.
func TestWritable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, link, taken := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "taken")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(taken, link); err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket, other := os.NewFile(uintptr(ends[0]), "socket"), os.NewFile(uintptr(ends[1]), "other")
	defer socket.Close()
	defer other.Close()
	for _, test := range []struct {
		name, file, want string
		stdout           *os.File
	}{
		{"none", "", "", in},
		{"a file", filepath.Join(dir, "outlier.log"), filepath.Join(dir, "outlier.log"), in},
		{"a file where no directory is", filepath.Join(dir, "sub", "outlier.log"), os.DevNull, in},
		{"a pipe that nobody reads", pipe, os.DevNull, in},
		{"a link", link, os.DevNull, in},
		{"standard output that is a pipe", "/dev/stdout", "/dev/stdout", in},
		{"standard output that is a socket, which cannot be opened", "/dev/stdout", os.DevNull, socket},
		{"standard output that there is none of", "/dev/stdout", "/dev/stdout", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Program{Stdout: test.stdout}.writable(test.file)
			if got != test.want || (err != nil) != (test.want == os.DevNull) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
	if _, err := os.Lstat(taken); err == nil {
		t.Error("something was written behind the link")
	}
}

// Envoy would end where it cannot open this log. The bootstrap names one that it can.
func TestOutlierLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	envoys := agenttest.Envoys(t)
	dir := agenttest.ShortDir(t)
	own := filepath.Join(dir, "bootstrap.yaml")
	s := newStub(t, "run", "ENVOY_PATH="+envoys[0], "ENVOY_CONFIG_FILE="+own, "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null",
		"ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH="+filepath.Join(dir, "nowhere", "outlier.log"), "ENVOY_INITIAL_FETCH_TIMEOUT=1", "APPNET_ENVOY_RESTART_COUNT=0")
	p := play(t, s)
	testenv.Eventually(t, "Envoy is live", func() bool {
		_, text := askHTTP(t, http.DefaultClient, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/ready", s.admin))
		return strings.Contains(text, "LIVE")
	})
	text, err := os.ReadFile(own)
	if err != nil || !strings.Contains(string(text), "eventLogPath: "+os.DevNull) {
		t.Errorf("%v, the bootstrap: %s", err, text)
	}
	p.says(t, "cannot write ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH")
	p.tell(t, syscall.SIGTERM)
	p.tell(t, syscall.SIGTERM)
	p.ends(t, 0)
}
