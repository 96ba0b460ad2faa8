package audit

import (
	"net/http"
	"strings"
)

// HeaderMissing names, in an answer of LookupEvents, the replicas whose events are
// not in it.
const HeaderMissing = "X-Evermesh-Missing-Replicas"

// Before serves what replicas ask each other on the API's address, and all else by
// the API; answers of LookupEvents say in a header what they miss.
func (l *Lookups) Before(api http.Handler) http.Handler {
	peers := l.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == PeerPath:
			peers.ServeHTTP(w, r)
		case strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".LookupEvents"):
			ctx, names := watch(r.Context())
			api.ServeHTTP(&incomplete{w, names}, r.WithContext(ctx))
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// incomplete says in an answer's header what it misses.
type incomplete struct {
	http.ResponseWriter
	names func() []string
}

func (w *incomplete) say() {
	if names := w.names(); len(names) > 0 {
		w.Header().Set(HeaderMissing, strings.Join(names, ", "))
	}
}

// WriteHeader satisfies http.ResponseWriter.
func (w *incomplete) WriteHeader(status int) {
	w.say()
	w.ResponseWriter.WriteHeader(status)
}

// Write satisfies http.ResponseWriter.
func (w *incomplete) Write(b []byte) (int, error) {
	w.say()
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *incomplete) Unwrap() http.ResponseWriter { return w.ResponseWriter }
