package auth

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

const unsignedPayload = "UNSIGNED-PAYLOAD"

// forms yields the ways in which clients write one path and query down for
// signing, most likely first. All of them mean the same request.
//
// Paths: each segment as sent, encoded once more; botocore resolves dot segments
// and double slashes before that, yet sends them. Queries: AWS sorts encoded
// parameters, its SDK for Go decoded ones, which differs when a character that
// needs encoding meets a letter.
func (m *message) forms(yield func(path, query string) bool) {
	path, query := encodePath(m.path), m.canonicalQuery(byEncoded)
	if !yield(path, query) {
		return
	}
	resolved, decoded := encodePath(resolve(m.path)), m.canonicalQuery(byDecoded)
	if decoded != query && !yield(path, decoded) {
		return
	}
	if resolved != path && yield(resolved, query) && decoded != query {
		yield(resolved, decoded)
	}
}

// canonical appends the canonical request of Signature Version 4, with one of
// the message's forms of path and query.
func (m *message) canonical(b []byte, path, query string, signedHeaders []string, payload string) []byte {
	b = append(append(b, m.method...), '\n')
	b = append(append(b, path...), '\n')
	b = append(append(b, query...), '\n')
	for _, name := range signedHeaders {
		b = append(append(b, name...), ':')
		for i, value := range m.headers[name] {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, trim(value)...)
		}
		b = append(b, '\n')
	}
	b = append(b, '\n')
	for i, name := range signedHeaders {
		if i > 0 {
			b = append(b, ';')
		}
		b = append(b, name...)
	}
	b = append(b, '\n')
	return append(b, payload...)
}

// covers checks that the signature covers what it must: host, every x-amz-…
// header that is there, and no header that is not there.
func (m *message) covers(signedHeaders []string) error {
	if !slices.Contains(signedHeaders, "host") {
		return invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	var unsigned []string
	for name := range m.headers {
		if strings.HasPrefix(name, "x-amz-") && !slices.Contains(signedHeaders, name) {
			unsigned = append(unsigned, name)
		}
	}
	if unsigned != nil {
		slices.Sort(unsigned)
		return invalid("There were headers present in the request which were not signed: %s", shown(strings.Join(unsigned, ", ")))
	}
	for _, name := range signedHeaders {
		if len(m.headers[name]) == 0 {
			return mismatch()
		}
	}
	return nil
}

// payload returns the hash of the body as it stands in the canonical request.
// Most clients of App Mesh do not send it.
func (m *message) payload() (string, error) {
	given, found, err := m.header("x-amz-content-sha256")
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(given, "STREAMING-") {
		return "", incomplete("X-Amz-Content-Sha256 must be the hash of the body or %s: payloads signed in chunks ('%s') are not supported.", unsignedPayload, shown(given))
	}
	if given == unsignedPayload {
		return given, nil
	}
	sum := sha256.Sum256(m.body)
	actual := hex.EncodeToString(sum[:])
	if found && given != actual {
		return "", mismatch()
	}
	return actual, nil
}

func byEncoded(a, b parameter) int { return compare(a.encoded(), b.encoded()) }

func byDecoded(a, b parameter) int { return compare(a, b) }

func compare(a, b parameter) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.value, b.value))
}

func (p parameter) encoded() parameter { return parameter{encode(p.name, ""), encode(p.value, "")} }

// canonicalQuery leaves the signature itself out.
func (m *message) canonicalQuery(order func(a, b parameter) int) string {
	if len(m.query) == 0 {
		return ""
	}
	query := slices.DeleteFunc(slices.Clone(m.query), func(p parameter) bool { return p.name == "X-Amz-Signature" })
	slices.SortStableFunc(query, order)
	var b strings.Builder
	for i, p := range query {
		if i > 0 {
			b.WriteByte('&')
		}
		p = p.encoded()
		b.WriteString(p.name + "=" + p.value)
	}
	return b.String()
}

func encodePath(path string) string { return encode(path, "/") }

// resolve removes dot segments and empty ones as botocore does (RFC 3986,
// 5.2.4).
func resolve(path string) string {
	var kept []string
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
		}
	}
	if len(kept) == 0 {
		return "/"
	}
	resolved := "/" + strings.Join(kept, "/")
	if strings.HasSuffix(path, "/") {
		resolved += "/"
	}
	return resolved
}

// encode percent-encodes all but the unreserved characters of RFC 3986 and
// those in also.
func encode(s, also string) string {
	const digits = "0123456789ABCDEF"
	plain := 0
	for plain < len(s) && isPlain(s[plain], also) {
		plain++
	}
	if plain == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:plain]...)
	for i := plain; i < len(s); i++ {
		if c := s[i]; isPlain(c, also) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

func isPlain(c byte, also string) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 || strings.IndexByte(also, c) >= 0
}

// trim removes spaces around a header's value and makes runs of spaces one.
func trim(value string) string {
	value = strings.Trim(value, " \t")
	for strings.Contains(value, "  ") {
		value = strings.ReplaceAll(value, "  ", " ")
	}
	return value
}
