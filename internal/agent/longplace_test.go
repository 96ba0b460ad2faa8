package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/owner"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/supervise"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Where the directory for temporary files has a name that leaves no room for sockets, they are elsewhere: Envoy starts, a
// new one takes over, and nothing is left.
func TestLongTMPDIR(t *testing.T) {
	t.Parallel()
	long := filepath.Join(agenttest.ShortDir(t), strings.Repeat("n", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	port := testenv.FreePort(t)
	open := make(chan struct{})
	close(open)
	c := agenttest.NewControlPlane(t, "")
	c.ServeDelta((&meshOfOne{listener: helloListener(t, port), open: open}).serve)
	s := newStub(t, "", "APPMESH_XDS_ENDPOINT=http://"+c.Addr, "ENVOY_PATH="+agenttest.Envoys(t)[0], "DISABLE_HOT_RESTART=false", "ENVOY_CONCURRENCY=1",
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s", "TMPDIR="+long)
	p := play(t, s)
	untilEpoch(t, s.admin, 0)
	envoy := childrenOf(t, p.cmd.Process.Pid)
	if len(envoy) != 1 {
		t.Fatalf("children: %q", envoy)
	}
	text, err := os.ReadFile("/proc/" + envoy[0] + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "--socket-path\x00")
	socket, _, _ := strings.Cut(rest, "\x00")
	short := filepath.Dir(socket)
	info, err := os.Lstat(short)
	if err != nil {
		t.Fatal(err)
	}
	if len(short)+supervise.SocketRoom(settings.Settings{HotRestart: true}, nil) > settings.MaxSocketPath || info.Mode().Perm() != 0o700 || !owner.Mine(info) {
		t.Errorf("%s is no directory for sockets: %s", short, info.Mode())
	}
	if _, err := os.Stat(filepath.Join(short, "xds.sock")); err != nil {
		t.Error(err)
	}
	p.tell(t, syscall.SIGHUP)
	untilEpoch(t, s.admin, 1)
	p.tell(t, syscall.SIGTERM)
	testenv.Eventually(t, "it drains", func() bool { return strings.Contains(p.out.String(), "draining") })
	p.tell(t, syscall.SIGTERM)
	p.ends(t, 0)
	if _, err := os.Lstat(short); err == nil {
		t.Errorf("%s is left", short)
	}
	if left, _ := filepath.Glob(filepath.Join(long, "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Where the name of the agent's directory leaves room for the sockets that are to lie there, they do.
func TestRoomForSockets(t *testing.T) {
	t.Parallel()
	nowhere := []string{filepath.Join(t.TempDir(), "nowhere")}
	for _, test := range []struct {
		name    string
		args    []string
		of      settings.Settings
		longest int // name of the directory; 0 for any
	}{
		{"the relay's", nil, settings.Settings{}, 98},
		{"the relay's and Envoy's for hot restart", nil, settings.Settings{HotRestart: true}, 83},
		{"the relay's elsewhere", nil, settings.Settings{SocketPath: "/run/xds.sock"}, 0},
		{"the relay's elsewhere, Envoy's here", nil, settings.Settings{SocketPath: "/run/xds.sock", HotRestart: true}, 83},
		{"Envoy's elsewhere, the relay's here", []string{"--socket-path", "/run/h"}, settings.Settings{HotRestart: true}, 98},
		{"both elsewhere", []string{"--socket-path=/run/h"}, settings.Settings{SocketPath: "/run/xds.sock", HotRestart: true}, 0},
		{"the relay of Service Connect's agent", nil, settings.Settings{ServiceConnect: "/run/appnet.sock"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, length := range []int{20, 83, 84, 98, 99, 200} {
				p := &place{dir: strings.Repeat("n", length)}
				at, err := p.sockets(room(test.of, test.args), nowhere)
				if fits := test.longest == 0 || length <= test.longest; fits != (err == nil) || fits && at != p.dir {
					t.Errorf("a name of %d bytes: got %q, %v", length, at, err)
				}
			}
		})
	}
	t.Run("the agent's own", func(t *testing.T) {
		t.Parallel()
		s := newStub(t, "run")
		long := filepath.Join(s.dir, strings.Repeat("n", 70-len(s.dir)-1)) // its directory's name has 87 to 96 bytes
		if err := os.Mkdir(long, 0o700); err != nil {
			t.Fatal(err)
		}
		p := play(t, &stub{dir: s.dir, lines: append(s.lines, "TMPDIR="+long)})
		p.until(t, "ready")
		if there, err := filepath.Glob(filepath.Join(long, placePrefix+"*", relaySocket)); len(there) != 1 {
			t.Errorf("sockets: %q, %v", there, err)
		}
		p.tell(t, syscall.SIGTERM)
		p.until(t, "POST")
		p.tell(t, syscall.SIGTERM)
		p.ends(t, 0)
	})
}

// Sockets lie where nobody else can put something in their place.
func TestDirectoriesForSockets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		mode fs.FileMode
		user int
		want bool
	}{
		{"this user's alone", 0o700, os.Geteuid(), true},
		{"for all, each with names of their own", 0o777 | fs.ModeSticky, os.Geteuid(), true},
		{"for all", 0o777, os.Geteuid(), false},
		{"another user's", 0o755, 65534, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, test.user, -1); err != nil {
				t.Skip("only root may give files away")
			}
			if err := ownNames(dir); (err == nil) != test.want {
				t.Errorf("got %v", err)
			}
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			if ownNames(link) == nil {
				t.Error("a link is taken")
			}
		})
	}
	t.Run("it goes with the place", func(t *testing.T) {
		root := t.TempDir()
		p, err := placeIn(root)
		if err != nil {
			t.Fatal(err)
		}
		p.short, err = placeIn(root)
		if err != nil {
			t.Fatal(err)
		}
		p.remove()
		if left, _ := filepath.Glob(filepath.Join(root, "*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}
