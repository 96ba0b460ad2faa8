//go:build linux

package ground

import (
	"bufio"
	"fmt"
	"os"
)

// Owner is how redirection recognises Envoy's own traffic. On all but a bare ground exactly one
// of the two is not 0.
type Owner struct {
	UID  uint32 // the user that Envoy and agent run as: 1337, as App Mesh did
	Mark uint32 // the mark on their packets where a namespace has one user id only: 0x539
}

// The user that App Mesh's examples give to Envoy, and the mark that stands for it.
const (
	envoyUID  = 1337
	envoyMark = 0x539
)

// Env is the owner as environment variables of `evermesh-agent` and `evermesh-agent intercept`.
func (o Owner) Env() []string {
	if o.Mark != 0 {
		return []string{fmt.Sprintf("EVERMESH_IGNORE_MARK=%#x", o.Mark)}
	}
	return []string{fmt.Sprintf("APPMESH_IGNORE_UID=%d", o.UID)}
}

// findOwner looks at which user ids exist in this user namespace: without root there is one, and no program can
// become another user.
func findOwner() Owner {
	f, err := os.Open("/proc/self/uid_map")
	if err != nil {
		return Owner{Mark: envoyMark}
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var first, outside, count uint64
		if _, err := fmt.Sscan(lines.Text(), &first, &outside, &count); err != nil {
			continue
		}
		if first <= envoyUID && envoyUID < first+count {
			return Owner{UID: envoyUID}
		}
	}
	return Owner{Mark: envoyMark}
}
