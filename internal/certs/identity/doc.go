// Package identity gives the nodes and gateways of a mesh their certificates, when
// the mesh's settings say so (D11).
//
// Start with Issuer. A certificate names the client by its SPIFFE id and by its name
// in discovery, lives for a day and is replaced after half of that. Nothing of it is
// stored: keys, serial numbers and times follow from a secret that the replicas share,
// so that each replica gives the same certificate, and 3,000 nodes cost the store no
// write (derive.go). Nodes change theirs at different moments of the half day.
//
// The first of the authorities that the mesh names issues, all of them are trusted:
// so one is replaced by another. An authority is one of ACM PCA, or built in: then its
// key follows from the shared secret, too.
package identity
