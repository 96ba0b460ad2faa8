// Package client calls a control plane: the App Mesh API and Evermesh's own,
// both from their models, so that the command line and its companions share one
// contract with the server.
//
// Start with New and Client.Call.
package client
