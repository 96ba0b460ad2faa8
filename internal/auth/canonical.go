package auth

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

const unsignedPayload = "UNSIGNED-PAYLOAD"

// forms returns the ways in which clients write one path and query down for
// signing, most likely first. All of them mean the same request.
//
// Paths: each segment as sent, encoded once more; botocore resolves dot segments
// and double slashes before that, yet sends them. Queries: AWS sorts encoded
// parameters, its SDK for Go decoded ones, which differs when a character that
// needs encoding meets a letter.
func (m *message) forms() []string {
	paths := []string{encodePath(m.path), encodePath(resolve(m.path))}
	queries := []string{m.canonicalQuery(byEncoded), m.canonicalQuery(byDecoded)}
	var forms []string
	for _, path := range slices.Compact(paths) {
		for _, query := range slices.Compact(queries) {
			forms = append(forms, path+"\n"+query)
		}
	}
	return forms
}

// canonical is the canonical request of Signature Version 4, around one of the
// message's forms.
func (m *message) canonical(form string, signedHeaders []string, payload string) string {
	var b strings.Builder
	b.WriteString(m.method + "\n" + form + "\n")
	for _, name := range signedHeaders {
		b.WriteString(name + ":")
		for i, value := range m.headers[name] {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(trim(value))
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + strings.Join(signedHeaders, ";") + "\n" + payload)
	return b.String()
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
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0, strings.IndexByte(also, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// trim removes spaces around a header's value and makes runs of spaces one.
func trim(value string) string {
	value = strings.Trim(value, " \t")
	for strings.Contains(value, "  ") {
		value = strings.ReplaceAll(value, "  ", " ")
	}
	return value
}
