// Package tagging is the Resource Groups Tagging API for App Mesh: tags of many
// resources at once, and resources by their tags.
//
// It reads a snapshot of all resources, as new as the store, and writes by App Mesh's
// own TagResource and UntagResource, as whoever called: what these refuse is refused
// here, resource by resource.
//
// Only what the caller's account created is seen: tags are for the account that set
// them alone (SHARE-011). Resources without tags are not told of; AWS tells of those
// that had some once, which nobody keeps here.
//
// Start with Server in service.go.
package tagging
