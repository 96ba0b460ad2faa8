package testenv

import (
	"os"
	"syscall"
	"testing"
)

// Script writes a program that is started at once, such as a shell script. While its
// file is open for writing no other goroutine starts a process: that one would have the
// file open, too, until it is the other program, and the kernel starts none that somebody
// writes to ("text file busy").
func Script(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte(text), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o755); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}
