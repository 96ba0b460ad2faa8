package httpapi

import (
	"net/http"
	"strings"
)

// direct refuses what has come through a proxy, such as this agent's own Envoy where a listener of the node has the port of
// this interface: to the agent it comes from the loopback, but who has sent it is anybody who may call the node.
func direct(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if proxied(r.Header) {
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
