// Package certs is ACM and its private CA, as far as a mesh needs them, and gives
// Envoy what they issue.
//
// Start with Registry: ACM and PCA are the two services (acm.go, pca.go), whose
// operations read records from the store and write them, one scope for each
// authority and each certificate (record.go), so that unrelated writers do not meet.
// Package authority makes the certificates; keys are sealed at rest (D4).
//
// Registry.Run follows the records into memory (directory.go), from where the
// management service is answered: a Registry is a secrets.Issuer (issuer.go). It
// also renews certificates long before they expire (renew.go), and Registry.CRL is
// what authorities say that they have revoked (crl.go).
package certs
