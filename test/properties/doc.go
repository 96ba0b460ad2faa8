// Package properties tries what has to hold of any mesh whatever has been written
// to it: after any sequence of creates, updates and deletes that the API takes,
// what every proxy is to have is what the resources as they are now give from
// nothing; it refers to nothing that it does not hold; and Envoy takes it.
//
// Documents are drawn from the API's model (draw_test.go), so that no field can be
// forgotten, with few names, ports and words, so that references hit and miss,
// ports clash, and patterns and formats are good and bad. A world of them
// (world_test.go) is written to as the API would be: what its model or its rules
// refuse is not written. A control plane (line_test.go) is the real publishing
// loop with the real endpoint registry, which follow the world's changes in the
// order and in the bundles of changes that chance has it. What comes out is looked
// at in whole_test.go, and given to real Envoys in envoy_test.go.
package properties
