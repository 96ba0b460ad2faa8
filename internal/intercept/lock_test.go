package intercept

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever keeps the namespace's lock, which everybody in it may take, is not waited for without end.
func TestLockIsNotWaitedForWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = transact(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "others have had its lock for 30s") || time.Since(began) > lockWait+lockTick {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		if _, err := transact(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
}
