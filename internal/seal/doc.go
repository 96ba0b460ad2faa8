// Package seal keeps secrets at rest under a key that is not in the store (D4).
//
// Start with Open (box.go): it reads the master key file (master.go). Box.Seal makes
// a secret into a Sealed, which goes into a record, and Box.Open reads it again;
// AES-256-GCM binds it to its owner, so that it is of no use in another record, and
// it names the key that sealed it. Box.SealText is for texts that are kept by
// others, such as session tokens, and Box.Derive for keys that replicas share
// (text.go).
//
// Two master keys are accepted, for the time in which they change (rotate.go): the
// packages that keep secrets say where, each in a Place (place.go). Box.Run reads the
// file again when it changes.
package seal
