// Package iam keeps accounts and who is in them: users, groups, roles, their policies
// and access keys. It answers AWS's IAM, the verifier of signatures, and whoever asks
// what a principal may do.
//
// Start with Open (keys.go): it reads every account, makes the first one with its root
// key when there is none (account.go), and writes that key to an AWS shared-credentials
// file (credentials.go); Manage is Open for commands. Keys.Run then follows the store,
// so that what any replica writes acts here within a second. Secrets are sealed at rest
// by package seal.
//
// Server (server.go, service.go) does the operations: identities.go for what users,
// groups and roles have in common, users.go, roles.go, managed.go, attach.go and so on
// for each. records.go has the records. Calls that read read the store; those that
// write return when this replica goes by what they wrote.
//
// Directory (directory.go) is the same in memory, and Authorizer (authorize.go) decides
// by it, with package policy. AWS's managed policies are in policies/ (builtin.go).
// lookup.go is for packages that make sessions.
package iam
