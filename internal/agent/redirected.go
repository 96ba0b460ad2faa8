package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/sockets"
)

// socketLists has the sockets of the agent's network namespace, which is Envoy's.
const socketLists = sockets.OfProcess

// checkRedirected says before the first start that somebody listens where this node's Envoy is to take redirected traffic.
// Envoys share a port in silence, and each would get a part of what is meant for the other. lists is a directory of the
// kernel's lists of sockets.
func checkRedirected(lists string, s settings.Settings, log *slog.Logger) {
	ports := s.RedirectedPorts()
	if len(ports) == 0 {
		return
	}
	taken := map[int]string{}                             // by inode
	_ = sockets.Each(lists, func(x sockets.Socket) bool { // what cannot be seen is not told
		if port := int(x.Local.Port()); x.Listens() && slices.Contains(ports, port) && taken[port] == "" {
			taken[port] = x.Inode
		}
		return true
	})
	for _, port := range ports {
		inode, is := taken[port]
		if !is {
			continue
		}
		about := []any{"port", port}
		if pid := holder(inode); pid != 0 {
			about = append(about, "pid", pid)
		}
		log.Warn("another process listens where envoy is to take redirected traffic, and would get a part of it: "+
			"give each agent a network namespace of its own, or end what is left of an earlier one", about...)
	}
}

// holder is the first process seen that has the socket open; 0 when it cannot be seen.
func holder(inode string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && to == fmt.Sprintf("socket:[%s]", inode) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file)))) // the pattern says so
			return pid
		}
	}
	return 0
}
