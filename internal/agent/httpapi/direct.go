package httpapi

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/evermesh/evermesh/internal/sockets"
)

// direct refuses what has come through a proxy, such as this agent's own Envoy where a listener of the node has the port of
// this interface: to the agent it comes from the loopback, but who has sent it is anybody who may call the node.
func (v *Server) direct(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if proxied(r.Header) || v.fromEnvoy(r) {
			http.Error(w, "Not for requests that have come through a proxy", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// proxied says whether headers are there that proxies add. Envoy adds X-Forwarded-Proto to whatever has none.
func proxied(h http.Header) bool {
	for name := range h {
		switch {
		case strings.HasPrefix(name, "X-Forwarded-"), strings.HasPrefix(name, "X-Envoy-"):
			return true
		case name == "X-Request-Id", name == "Forwarded", name == "Via":
			return true
		}
	}
	return false
}

// fromEnvoy says whether the other end of the request's connection is Envoy's: a listener of TCP adds no headers. Where the
// system does not tell, it is not.
func (v *Server) fromEnvoy(r *http.Request) bool {
	pid, _ := v.Health.Envoy.Process()
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	here, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if pid == 0 || err != nil || here == nil {
		return false
	}
	remote, local := sockets.Plain(remote), sockets.Plain(here.AddrPort())
	inode := ""
	_ = sockets.Each(sockets.OfProcess, func(s sockets.Socket) bool {
		if s.Local == remote && s.Remote == local {
			inode = s.Inode
		}
		return inode == ""
	})
	if inode == "" || inode == "0" {
		return false
	}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
