// Package sts makes temporary credentials: who may have which role's, for how long,
// and what a request signed with them is.
//
// Start with Server (server.go), whose Service answers the operations of AWS STS.
// AssumeRole (assume.go) and AssumeRoleWithWebIdentity (web.go) ask a role's trust
// policy (trust.go); AssumePod and AssumeCertificate (workload.go) are for callers
// beside the API: pods and proxies. All end in Sessions.issue (session.go).
//
// A session is kept nowhere. Its token holds the principal, the secret, the end and
// the policies, sealed with a key that all replicas have; Sessions.Credential opens it
// again at each request, and asks whether what it was made from is still there: with a
// role its sessions end, also when another has its name.
package sts
