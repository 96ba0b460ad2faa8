package auth

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	timeFormat = "20060102T150405Z"
	maxExpires = 7 * 24 * time.Hour
)

// signature is what a request says about how it was signed, in its
// Authorization header or, when presigned, in its query.
type signature struct {
	accessKeyID string
	scope       scope
	signed      time.Time
	headers     []string // names, lower case, ascending
	sum         string   // 64 hexadecimal digits when the signer was honest
	token       string   // session token
	presigned   bool
	expires     time.Duration // how long a presigned request holds
}

// scope is what a signature is good for: a day, a region and a service.
type scope struct{ date, region, service string }

func (s scope) String() string {
	return s.date + "/" + s.region + "/" + s.service + "/" + terminator
}

// The parameters of a presigned request.
var presignParameters = []string{
	"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
}

// signature reads how the message was signed.
func (m *message) signature() (signature, error) {
	presigned := slices.ContainsFunc(m.query, func(p parameter) bool {
		return slices.Contains(presignParameters, p.name)
	})
	authorization, found, err := m.header("authorization")
	switch {
	case err != nil:
		return signature{}, err
	case presigned && found:
		return signature{}, incomplete("A request is signed in its Authorization header or in its query-string parameters, not in both.")
	case presigned:
		return m.querySignature()
	case strings.TrimSpace(authorization) == "":
		return signature{}, missing()
	default:
		return m.headerSignature(authorization)
	}
}

// headerSignature reads
// AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=….
func (m *message) headerSignature(authorization string) (signature, error) {
	given, rest, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	if strings.HasPrefix(given, "AWS4-") && given != algorithm {
		return signature{}, incomplete("Unsupported AWS 'algorithm': '%s'.", shown(given))
	}
	values := map[string]string{}
	for pair := range strings.SplitSeq(rest, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return signature{}, incomplete("Invalid key=value pair (missing equal-sign) in Authorization header (hashed with SHA-256 and encoded with Base64): '%s'.", hashed(authorization))
		}
		if _, twice := values[name]; twice {
			return signature{}, incomplete("Authorization header has parameter '%s' more than once.", shown(name))
		}
		values[name] = value
	}
	date, dated, err := m.date()
	if err != nil {
		return signature{}, err
	}
	var lacks []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if values[name] == "" || given != algorithm {
			lacks = append(lacks, "Authorization header requires '"+name+"' parameter.")
		}
	}
	if !dated {
		lacks = append(lacks, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
	}
	if lacks != nil {
		return signature{}, incomplete("%s (Hashed with SHA-256 and encoded with Base64) Authorization=%s", strings.Join(lacks, " "), hashed(authorization))
	}
	s := signature{signed: date, sum: values["Signature"]}
	if s.token, _, err = m.header("x-amz-security-token"); err != nil {
		return signature{}, err
	}
	return s.with(values["Credential"], values["SignedHeaders"])
}

// date is when the request was signed: X-Amz-Date, else Date.
func (m *message) date() (date time.Time, found bool, err error) {
	value, found, err := m.header("x-amz-date")
	if err != nil || found {
		date, err2 := parseDate(value)
		if err == nil {
			err = err2
		}
		return date, found, err
	}
	value, found, err = m.header("date")
	if err != nil || !found {
		return time.Time{}, false, err
	}
	if t, err := http.ParseTime(value); err == nil {
		return t, true, nil
	}
	date, err = parseDate(value)
	return date, true, err
}

func parseDate(value string) (time.Time, error) {
	t, err := time.Parse(timeFormat, value)
	if err != nil {
		return time.Time{}, incomplete("Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", shown(value))
	}
	return t, nil
}

// querySignature reads the X-Amz-… parameters of a presigned request.
func (m *message) querySignature() (signature, error) {
	values := map[string]string{}
	var lacks []string
	for _, name := range presignParameters {
		value, _, err := m.parameter(name)
		if err != nil {
			return signature{}, err
		}
		if value == "" {
			lacks = append(lacks, "AWS query-string parameters must include '"+name+"'.")
		}
		values[name] = value
	}
	if lacks != nil {
		return signature{}, incomplete("%s Re-examine the query-string parameters.", strings.Join(lacks, " "))
	}
	if given := values["X-Amz-Algorithm"]; given != algorithm {
		return signature{}, incomplete("Unsupported AWS 'algorithm': '%s'.", shown(given))
	}
	signed, err := parseDate(values["X-Amz-Date"])
	if err != nil {
		return signature{}, err
	}
	seconds, err := strconv.ParseUint(values["X-Amz-Expires"], 10, 31)
	expires := time.Duration(seconds) * time.Second
	if err != nil || expires < time.Second || expires > maxExpires {
		return signature{}, incomplete("X-Amz-Expires must be a number of seconds from 1 to %d, not '%s'.", int(maxExpires.Seconds()), shown(values["X-Amz-Expires"]))
	}
	s := signature{signed: signed, sum: values["X-Amz-Signature"], presigned: true, expires: expires}
	if s.token, _, err = m.parameter("X-Amz-Security-Token"); err != nil {
		return signature{}, err
	}
	return s.with(values["X-Amz-Credential"], values["X-Amz-SignedHeaders"])
}

// with takes the credential and the list of signed headers apart.
func (s signature) with(credential, signedHeaders string) (signature, error) {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 || parts[0] == "" {
		return signature{}, incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", shown(credential))
	}
	s.accessKeyID = parts[0]
	s.scope = scope{date: parts[1], region: parts[2], service: parts[3]}
	if day := s.signed.UTC().Format("20060102"); s.scope.date != day {
		return signature{}, incomplete("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.", shown(s.scope.date), day, stamp(s.signed))
	}
	if parts[4] != terminator {
		return signature{}, incomplete("Credential should be scoped with a valid terminator: '%s', not '%s'.", terminator, shown(parts[4]))
	}
	s.headers = strings.Split(signedHeaders, ";")
	for i, name := range s.headers {
		if name == "" || name != strings.ToLower(name) || i > 0 && s.headers[i-1] >= name {
			return signature{}, incomplete("SignedHeaders must be header names in lower case and ascending order, delimited by semicolons, got '%s'.", shown(signedHeaders))
		}
	}
	return s, nil
}
