package wire

import (
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// Codes that a front end has beside those of package api.
const (
	codeSerialization = "SerializationException"
	// CodeValidation is of an input that breaks the model.
	CodeValidation = "ValidationException"
)

// Fault is a refusal as it goes over the wire.
type Fault struct {
	Code    string
	Message string
	Status  int
	// Theirs says that the fault is the caller's: a Sender, not a Receiver.
	Theirs bool
}

// jsonNames are the common errors of the protocols that carry JSON or CBOR.
func jsonNames() map[string]Fault {
	return map[string]Fault{
		api.CodeInternalServerError: {Code: "InternalFailure", Status: 500},
		api.CodeServiceUnavailable:  {Code: "ServiceUnavailableException", Status: 503},
		api.CodeTooManyRequests:     {Code: "ThrottlingException", Status: 400},
		api.CodeIncompleteSignature: {Code: api.CodeIncompleteSignature, Status: 400},
		api.CodeUnknownOperation:    {Code: api.CodeUnknownOperation, Status: 404},
		api.CodeForbidden:           {Code: api.CodeAccessDenied},
	}
}

// queryNames are those of the protocol query.
func queryNames() map[string]Fault {
	return map[string]Fault{
		api.CodeInternalServerError:        {Code: "InternalFailure", Status: 500},
		api.CodeServiceUnavailable:         {Code: "ServiceUnavailable", Status: 503},
		api.CodeTooManyRequests:            {Code: "Throttling", Status: 400},
		api.CodeIncompleteSignature:        {Code: "IncompleteSignature", Status: 400},
		api.CodeUnknownOperation:           {Code: "InvalidAction", Status: 400},
		api.CodeMissingAuthenticationToken: {Code: "MissingAuthenticationToken"},
		api.CodeUnrecognizedClient:         {Code: "InvalidClientTokenId"},
		api.CodeInvalidSignature:           {Code: "SignatureDoesNotMatch"},
		api.CodeExpiredToken:               {Code: "ExpiredToken"},
		api.CodeAccessDenied:               {Code: "AccessDenied"},
		api.CodeForbidden:                  {Code: "AccessDenied"},
		CodeValidation:                     {Code: "ValidationError", Status: 400},
		codeSerialization:                  {Code: "MalformedInput", Status: 400},
	}
}

// refused are the codes of who may not, or is not known.
func refused(code string) bool {
	switch code {
	case api.CodeMissingAuthenticationToken, api.CodeUnrecognizedClient, api.CodeInvalidSignature, api.CodeExpiredToken, api.CodeAccessDenied, api.CodeForbidden:
		return true
	}
	return false
}

// Fault is what an error of an operation, or of what runs before it, is on this
// protocol: the operation's own errors as the model has them, by the name of their
// shape or their code; the common ones as AWS's front ends name them; 400 for any
// other code.
func (p Protocol) Fault(m *model.Model, op *model.Operation, e *api.Error) Fault {
	f := Fault{Code: e.Code, Message: e.Message, Status: 400}
	if shape := modelled(m, op, e.Code); shape != nil {
		if trait := shape.Error; trait != nil {
			if trait.HTTPStatusCode != 0 {
				f.Status = trait.HTTPStatusCode
			}
			if trait.Code != "" && p.Name == Query {
				f.Code = trait.Code
			}
		}
	} else {
		if refused(e.Code) {
			f.Status = p.denied
		}
		if named, ok := p.names[e.Code]; ok {
			if f.Code = named.Code; named.Status != 0 {
				f.Status = named.Status
			}
		}
	}
	f.Theirs = f.Status < 500
	return f
}

// modelled is the error's shape when the operation has it, or another operation of
// the service has; nil when none has.
func modelled(m *model.Model, op *model.Operation, code string) *model.Shape {
	if op != nil {
		for _, ref := range op.Errors {
			if s := m.Shapes[ref.Shape]; ref.Shape == code || s.Error != nil && s.Error.Code == code {
				return s
			}
		}
	}
	if code == api.CodeExpiredToken {
		return nil // of STS it is a web identity's; a request's own is the front end's
	}
	if s := m.Shapes[code]; s != nil && s.Exception {
		return s
	}
	return nil
}
