package api

import "fmt"

// Error is the only error with a meaning on the wire: a code of the model, such
// as NotFoundException, or one of AWS's common codes below, and a text for the
// person who reads it. Package rest renders it; any other error is answered as
// InternalServerErrorException with a request id.
type Error struct {
	Code    string
	Message string
}

// Codes that every AWS service shares and no model lists.
const (
	CodeMissingAuthenticationToken = "MissingAuthenticationTokenException"
	CodeIncompleteSignature        = "IncompleteSignatureException"
	CodeUnrecognizedClient         = "UnrecognizedClientException"
	CodeInvalidSignature           = "InvalidSignatureException"
	CodeExpiredToken               = "ExpiredTokenException"
	CodeAccessDenied               = "AccessDeniedException"
	CodeUnknownOperation           = "UnknownOperationException"
)

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Status is the HTTP status of the error's code (API-033, D17).
func (e *Error) Status() int {
	if status, ok := modelStatus(e.Code); ok {
		return status
	}
	switch e.Code {
	case CodeIncompleteSignature:
		return 400
	case CodeUnknownOperation:
		return 404
	case CodeMissingAuthenticationToken, CodeUnrecognizedClient, CodeInvalidSignature, CodeExpiredToken, CodeAccessDenied:
		return 403
	}
	return 500
}

// Errorf makes an Error.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
