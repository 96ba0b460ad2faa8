// Package iam keeps accounts and their access keys in the store, and answers
// the verifier of signatures from memory.
//
// Start with Open (keys.go): it loads the master key (master.go), reads every
// access key, makes the first account with its root key when there is none
// (account.go), and writes that key to an AWS shared-credentials file
// (credentials.go); Manage is Open for commands. Keys.Run then follows the store,
// so that a key that any replica makes or revokes is known here within a second.
//
// Secrets are sealed at rest with AES-256-GCM under the master key (D4); the
// record names the key that sealed it. Two master keys are accepted, for the
// time in which they change (rotate.go); the file is read again when it does.
package iam
