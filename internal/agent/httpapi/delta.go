package httpapi

import (
	"strconv"
	"strings"
)

// difference is what newer has more than older, both of them families in Prometheus' format: counters less what they were,
// histograms bucket by bucket, with their sums and counts, and gauges as they are. What is new counts from nothing; so does
// what has become less, which only another process can have brought about.
func difference(older, newer string) string {
	before := map[string]string{}
	for line := range strings.Lines(older) {
		if name, value, ok := sample(line); ok {
			before[name] = value
		}
	}
	var out strings.Builder
	out.Grow(len(newer))
	adds := false // the family's samples only ever grow
	for line := range strings.Lines(newer) {
		if of, ok := strings.CutPrefix(line, "# TYPE "); ok {
			_, kind, _ := strings.Cut(strings.TrimSpace(of), " ")
			adds = kind == "counter" || kind == "histogram"
		}
		name, value, ok := sample(line)
		if !ok || !adds {
			out.WriteString(line)
			continue
		}
		out.WriteString(name + " " + less(value, before[name]) + "\n")
	}
	return out.String()
}

// sample parts a line into name with labels, and value.
func sample(line string) (name, value string, ok bool) {
	if strings.HasPrefix(line, "#") {
		return "", "", false
	}
	line = strings.TrimSpace(line)
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// less is a value less another: exact for whole numbers.
func less(value, by string) string {
	if by == "" {
		return value
	}
	if v, err := strconv.ParseUint(value, 10, 64); err == nil {
		if b, err := strconv.ParseUint(by, 10, 64); err == nil {
			if b > v {
				return value
			}
			return strconv.FormatUint(v-b, 10)
		}
	}
	v, err := strconv.ParseFloat(value, 64)
	b, errBy := strconv.ParseFloat(by, 64)
	if err != nil || errBy != nil || b > v {
		return value
	}
	return strconv.FormatFloat(v-b, 'f', -1, 64)
}
