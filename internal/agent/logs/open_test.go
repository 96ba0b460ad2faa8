package logs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	text := func(path string) error { return os.WriteFile(path, nil, 0o644) }
	for _, test := range []struct {
		name, want string // a part of the error; "" for none
		mode       fs.FileMode
		make       func(path string) error
	}{
		{"a new file", "", 0o755, func(string) error { return nil }},
		{"a new file where others write, too", "", 0o777 | fs.ModeSticky, func(string) error { return nil }},
		{"a file", "", 0o755, text},
		{"another user's file in our directory", "", 0o755, func(path string) error { return errors.Join(text(path), os.Chown(path, 65534, 65534)) }},
		{"another user's file where others write, too", "another user's", 0o777 | fs.ModeSticky, func(path string) error { return errors.Join(text(path), os.Chown(path, 65534, 65534)) }},
		{"a second name of a file where others write, too", "another user's", 0o777 | fs.ModeSticky, func(path string) error {
			return errors.Join(text(path+".there"), os.Link(path+".there", path))
		}},
		{"a link to a file", "it is a link", 0o755, func(path string) error { return errors.Join(text(path+".there"), os.Symlink(path+".there", path)) }},
		{"a link to nothing", "it is a link", 0o755, func(path string) error { return os.Symlink(path+".there", path) }},
		{"a pipe that nobody reads", "no such device", 0o755, func(path string) error { return unix.Mkfifo(path, 0o666) }},
		{"a directory", "is a directory", 0o755, func(path string) error { return os.Mkdir(path, 0o755) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log")
			if err := errors.Join(test.make(path), os.Chmod(dir, test.mode)); errors.Is(err, fs.ErrPermission) {
				t.Skip("only root may give files away")
			} else if err != nil {
				t.Fatal(err)
			}
			wantOpen(t, path, test.want)
			if _, err := os.Stat(path + ".there"); errors.Is(err, fs.ErrNotExist) != (test.name != "a link to a file" && !strings.HasPrefix(test.name, "a second")) {
				t.Errorf("what is behind the link: %v", err)
			}
		})
	}
	t.Run("a pipe that somebody reads", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log")
		if err := unix.Mkfifo(path, 0o666); err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		wantOpen(t, path, "neither a file nor a device")
	})
	t.Run("the null device", func(t *testing.T) { wantOpen(t, os.DevNull, "") })
	t.Run("the standard output, whatever it is", func(t *testing.T) {
		if info, err := os.Stdout.Stat(); err != nil || info.Mode()&fs.ModeSocket != 0 {
			t.Skip("it is a socket, which nobody can open")
		}
		wantOpen(t, "/dev/stdout", "")
	})
}

func wantOpen(t *testing.T, path, want string) {
	t.Helper()
	f, err := Open(path)
	if err == nil {
		err = f.Close()
	}
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}
