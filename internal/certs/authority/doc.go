// Package authority makes certificates, and knows nothing of who may have them:
// keys, requests, chains, lists of what was revoked, in the words of ACM PCA.
//
// Start with Issue, which makes a certificate of a request by a Template, as PCA's
// templates are documented. Keys (key.go) and subjects (name.go) are the
// vocabulary; CheckChain (chain.go) is what an import is held to; List (crl.go)
// is what an authority says of the certificates that it took back.
package authority
