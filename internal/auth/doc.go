// Package auth answers two questions about a request: who sent it, and may
// they do what it asks?
//
// The first is AWS Signature Version 4, verified the same way for the API and
// for Envoy's stream, which is one signed HTTP/2 request whose headers are gRPC
// metadata. The second is Allow, which knows accounts and, later, policies.
//
// Start with Verifier.Verify: it reads the signature (signature.go), asks a Keys
// for the caller's secret, writes the request down in the form that the caller
// signed (canonical.go) and compares. Every refusal is an *api.Error with the
// code, the status and the words of AWS (refusal.go), so that the SDKs'
// own error handling works (API-004).
package auth
