// Package api is the vocabulary of the product: the types that the App Mesh
// model describes (types_gen.go and evermesh_gen.go, generated from
// internal/model), and, by hand, the few that it does not: Kind and its table,
// Key, Resource, ARN and Error; append.go writes documents as JSON.
//
// Start with Kind: the seven kinds of App Mesh are seven rows of one table, and
// everything generic about them is read from there.
package api

//go:generate go run -C ../.. ./internal/model/gen
