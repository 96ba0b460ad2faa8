package testenv

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Scripts are started while others are written: none is busy.
func TestScriptsAreNotBusy(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for _, who := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 20 {
				path := filepath.Join(dir, who)
				Script(t, path, "#!/bin/sh\necho "+who+"\n")
				if out, err := exec.Command(path).Output(); err != nil || string(out) != who+"\n" {
					t.Errorf("%s: got %q, %v", who, out, err)
				}
			}
		})
	}
	wg.Wait()
}
