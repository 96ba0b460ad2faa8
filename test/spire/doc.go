// Package spire shows, with a real SPIRE server and agent, that virtual nodes with certificates of type sds speak
// mutual TLS by the SVIDs of their workloads, and go on while these are rotated.
//
// It is run by `make e2e-spire` alone, which builds SPIRE from its Go module: several minutes, so `make test` leaves it
// out. The ground, the programs and the applications are those of the end-to-end tests.
package spire
