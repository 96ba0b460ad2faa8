package lastgood

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/evermesh/evermesh/internal/agent/owner"
)

// closed says whether nobody but this user and root may change what is there.
func closed(info fs.FileInfo) bool { return owner.Trusted(info) && !owner.Open(info) }

// place is where the files lie: in dir or, where others may write to that, as in a Kubernetes emptyDir, in a directory of
// this user's own below it. It is an error when that is not this user's own: whoever may put a file there would configure
// Envoy. It need not be there yet.
func place(dir string) (string, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && closed(info):
		return dir, nil // it is made for this user alone
	case err != nil:
		return "", err
	}
	own := filepath.Join(dir, "evermesh-state-"+strconv.Itoa(os.Geteuid()))
	info, err = os.Lstat(own)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return own, nil
	case err != nil:
		return "", err
	case !info.IsDir() || !closed(info):
		return "", fmt.Errorf("others may write to %s and to %s: make one of them this user's own", dir, own)
	}
	return own, nil
}
