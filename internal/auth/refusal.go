package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// Refusals, one function for each sentence of AWS. Who sends a broken header
// may have put a secret into it, so headers are shown as AWS shows them today:
// hashed.

func missing() error {
	return api.Errorf(api.CodeMissingAuthenticationToken, "Missing Authentication Token")
}

// incomplete is for a signature that cannot be read.
func incomplete(format string, args ...any) error {
	return api.Errorf(api.CodeIncompleteSignature, format, args...)
}

// invalid is for a signature that was read and does not hold.
func invalid(format string, args ...any) error {
	return api.Errorf(api.CodeInvalidSignature, format, args...)
}

func mismatch() error {
	return invalid("The request signature we calculated does not match the signature you provided. " +
		"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
}

func unrecognized() error {
	return api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
}

func expiredToken() error {
	return api.Errorf(api.CodeExpiredToken, "The security token included in the request is expired")
}

func tooOld(signed, now time.Time, within time.Duration) error {
	return invalid("Signature expired: %s is now earlier than %s (%s - %s.)",
		stamp(signed), stamp(now.Add(-within)), stamp(now), minutes(within))
}

func tooNew(signed, now time.Time) error {
	return invalid("Signature not yet current: %s is still later than %s (%s + %s.)",
		stamp(signed), stamp(now.Add(maxSkew)), stamp(now), minutes(maxSkew))
}

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

// minutes is a duration in AWS's words: 5 min, 90 sec.
func minutes(d time.Duration) string {
	if d%time.Minute == 0 {
		return strconv.Itoa(int(d/time.Minute)) + " min"
	}
	return strconv.Itoa(int(d/time.Second)) + " sec"
}

func hashed(header string) string {
	sum := sha256.Sum256([]byte(header))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// shown is a part of the request for a message, shortened.
func shown(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
