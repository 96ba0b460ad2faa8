package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A replica whose disk takes no events goes on, but for reads, and says so where one
// looks why they fail.
func TestReadinessTellsThatEventsCannotBeKept(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	disk := testenv.SmallDisk(t, "16M")
	p := start(t, filepath.Join(disk, "data"), "--etcd-endpoints", e.endpoint, "--master-key-file", masterKey(t))
	list := func() error { return p.call(t.Context(), "ListMeshes", api.ListMeshesInput{}, nil) }
	ready := func(reason string) {
		t.Helper()
		form := regexp.MustCompile(`^{"ready":true,"reason":"` + reason + `"}\n$`)
		eventually(t, "/readyz says: "+reason, func() bool { // while it starts it is not ready
			status, body := p.get(t, "/readyz")
			return status == http.StatusOK && form.MatchString(body)
		})
	}
	ready("")
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = ballast.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	for err = nil; err == nil; { // what is reserved has room for some
		err = list()
	}
	if fault, ok := errors.AsType[*api.Error](err); !ok || fault.Status() != http.StatusServiceUnavailable {
		t.Errorf("a read fails with %v", err)
	}
	ready("events cannot be kept: .*no space left on device; calls that read are refused")
	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := list(); err != nil {
		t.Errorf("a read with room again: %v", err)
	}
	ready("")
}
