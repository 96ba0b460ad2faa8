package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
)

// statsWait is how long Envoy may take for its statistics, which are some MiB where a mesh is large.
const statsWait = 5 * time.Second

// statsQuery is what /stats/prometheus may be asked for.
type statsQuery struct {
	usedOnly  bool // what Envoy has updated
	extension bool // the metrics extension's families alone, by their own names
	delta     bool // what the last minute added to them
}

func parseStatsQuery(text string) (statsQuery, error) {
	var q statsQuery
	query, err := url.ParseQuery(text)
	if err != nil {
		return q, err
	}
	for name, values := range query {
		switch {
		case name == "usedonly" && slices.Equal(values, []string{""}):
			q.usedOnly = true
		case name == "delta" && slices.Equal(values, []string{""}):
			q.delta = true
		case name == "filter" && slices.Equal(values, []string{"metrics_extension"}):
			q.extension = true
		default:
			return q, fmt.Errorf("parameter %q is not known: want usedonly, filter=metrics_extension and delta", name)
		}
	}
	if q.delta && (!q.usedOnly || !q.extension) {
		return q, errors.New("delta wants usedonly and filter=metrics_extension beside it")
	}
	return q, nil
}

// path is what Envoy is asked for.
func (q statsQuery) path() string {
	path := "/stats?format=prometheus"
	if q.extension {
		path += "&filter=appmesh"
	}
	if q.usedOnly {
		path += "&usedonly"
	}
	return path
}

// prometheus answers with Envoy's statistics in Prometheus' format (AGENT-040).
func (v *Server) prometheus(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "Only GET requests are supported", http.StatusBadRequest)
		return
	}
	q, err := parseStatsQuery(r.URL.RawQuery)
	if err != nil {
		http.Error(w, "Invalid request: "+err.Error(), http.StatusBadRequest)
		return
	}
	out := &begun{w: w}
	if q.extension {
		err = v.extension(r.Context(), q, out)
	} else {
		err = v.Admin.Read(r.Context(), q.path(), statsWait, func(body io.Reader) error {
			_, err := io.Copy(out, body)
			return err
		})
	}
	switch {
	case err == nil:
	case out.begun: // half an answer must not pass for a whole one
		panic(http.ErrAbortHandler)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (v *Server) extension(ctx context.Context, q statsQuery, w io.Writer) error {
	if q.delta {
		if text, ok := v.Snapshots.delta(); ok {
			_, err := io.WriteString(w, text)
			return err
		}
	}
	text, err := readExtension(ctx, v.Admin, q, maxExtension)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, text)
	return err
}

// begun is an answer whose head says what it is, once something of it is there.
type begun struct {
	w     http.ResponseWriter
	begun bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	}
	return b.w.Write(p)
}

const (
	extensionPrefix = "envoy_appmesh_"
	maxExtension    = 16 << 20
	maxStatsLine    = 64 << 10
)

var errTooLarge = errors.New("the metrics extension's statistics are too large")

// readExtension is what Envoy has of the metrics extension's families: at most that many bytes.
func readExtension(ctx context.Context, admin *envoyadmin.Client, q statsQuery, limit int) (text string, err error) {
	err = admin.Read(ctx, q.path(), statsWait, func(body io.Reader) error {
		text, err = extensionFamilies(body, limit)
		return err
	})
	return text, err
}

// extensionFamilies keeps the metrics extension's families, sorted, named without Envoy's prefix, an empty line before each.
// Envoy's filter lets more pass: whatever has the word in its name.
func extensionFamilies(r io.Reader, limit int) (string, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxStatsLine)
	var families []string
	var family strings.Builder
	size, ours := 0, false
	end := func() {
		if family.Len() > 0 {
			size += family.Len()
			families = append(families, family.String())
			family.Reset()
		}
	}
	for lines.Scan() {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			end()
			if name, ours = strings.CutPrefix(name, extensionPrefix); ours {
				family.WriteString("\n# TYPE " + name + "\n")
			}
		} else if value, ok := strings.CutPrefix(line, extensionPrefix); ok && ours {
			family.WriteString(value + "\n")
		}
		if size+family.Len() > limit {
			return "", errTooLarge
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read statistics: %w", err)
	}
	end()
	slices.Sort(families)
	return strings.Join(families, ""), nil
}
