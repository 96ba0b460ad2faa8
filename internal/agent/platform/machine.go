package platform

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
)

// machine asks the kernel.
func machine() bootstrap.Facts {
	f := bootstrap.Facts{IPv4: map[string][]string{}, IPv6: map[string][]string{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		f.Kernel, f.Machine = unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:])
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return f
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			switch {
			case !ok:
			case n.IP.To4() != nil:
				f.IPv4[i.Name] = append(f.IPv4[i.Name], n.String())
			default:
				f.IPv6[i.Name] = append(f.IPv6[i.Name], n.String())
			}
		}
	}
	return f
}

const firmwareNames = "/sys/class/dmi/id"

// mayBeEC2 is false when the firmware names another vendor than Amazon. Instances of the oldest kind say Xen; who says
// nothing may be one.
func mayBeEC2(firmware string) bool {
	if firmware == "" {
		firmware = firmwareNames
	}
	text, err := os.ReadFile(filepath.Join(firmware, "sys_vendor"))
	vendor := strings.TrimSpace(string(text))
	return err != nil || vendor == "" || vendor == "Amazon EC2" || vendor == "Xen"
}

// fips asks Envoy whether it is a FIPS build: its version says so.
func fips(ctx context.Context, envoy string) (bool, error) {
	cmd := exec.CommandContext(ctx, envoy, "--version")
	cmd.WaitDelay = 100 * time.Millisecond // a child of Envoy's may hold its output open
	version, err := cmd.Output()
	if err != nil {
		return false, fmt.Errorf("ask Envoy for its version: %w", err)
	}
	return strings.Contains(strings.ToLower(string(version)), "fips"), nil
}
