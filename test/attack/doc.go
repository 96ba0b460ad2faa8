// Package attack attacks an evermeshd as it comes, through the doors that it has: the
// API on the wire, tokens of identity providers, streams of proxies. One is built and
// started, with two accounts, and all tests attack it at once. At the end all that they
// were given to keep secret is looked for in all that it has written.
//
// What a control plane must withstand, and where it is shown:
//
//   - Requests that are replayed or altered, clocks that are wrong: here in
//     signature_test.go, byte by byte on the wire; by parts in auth.TestAlteredRequests and
//     auth.TestReplay; what is replayed as two requests in rest.TestReplayedRequest.
//   - Confused deputies, and more rights by IAM's own means: deputy_test.go,
//     escalation_test.go; by parts in sts.TestAssumeRole and iam.TestPoliciesDecide.
//   - Forged tokens (alg none, key confusion, wrong audience, issuer and time) at the API,
//     EKS Auth and the stream, and providers that lead elsewhere: token_test.go; each form
//     by itself in oidc.TestForgedTokens, oidc.TestOddProviders and
//     oidc.TestUnknownIssuerIsNotAsked; SPIFFE ids in proxyauth.TestSPIFFEIDs.
//   - Policies that are gone around by case, encoding and wildcards: bypass_test.go;
//     rest.TestPoliciesAreNotGoneAround for each form of a name of App Mesh, and
//     policy's testdata/decisions/bypass.txtar.
//   - Another account's resources: compat.TestServicesKeepAccountsApart calls every
//     operation of every service around the mesh, made of the models;
//     rest.TestSharedMeshOperations every one of App Mesh and Evermesh, before, during and
//     after a share.
//   - Secrets that are where they do not belong: secrets_test.go, with the webhook and the
//     outbox in evermeshd's TestNoSecretIsInAnEvent, keys at rest in
//     certs.TestKeysAreSealed, and Envoy's dump under both dialects in
//     ads.TestKeysOfIssuedCertificatesAreNowhereToBeSeen.
//   - 10,000 policies and 1,000 accounts: the row authorize of test/bench;
//     iam.TestAuthorisationAmongAThousandAccounts counts what is looked at.
//   - What nobody thought of: auth.FuzzVerify, policy.FuzzParse, policy.FuzzMatch,
//     oidc.FuzzVerify, wire.FuzzQuery and wire.FuzzCBOR, which make soak runs.
package attack
