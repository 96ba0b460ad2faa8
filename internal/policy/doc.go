// Package policy reads IAM's policies and decides by them, as IAM documents it.
//
// Parse makes a Document of JSON, with everything worked out that can be before a
// request is there: patterns are split, condition values are numbers, times and
// networks, and statements are found by action. Evaluate asks a Set of documents
// about one Request and returns a Decision. Explain says the same in full: each
// statement that names the action, and what in it did not fit.
//
// The package is pure. A key of the request that has a time, such as aws:CurrentTime,
// is the caller's to fill in, as are the keys that the principal has by itself.
//
// # What is decided where IAM's documentation is silent
//
// A policy variable whose key the request does not have never widens what is allowed:
// a pattern with it matches nothing, and in NotResource or under a negated operator an
// Allow does not apply while a Deny does. Values that stand for a variable are plain
// text: a user called "*" is no wildcard.
//
// Letters of actions, condition keys and operators are compared without case in ASCII
// only, so that no look-alike from elsewhere in Unicode is taken for one.
//
// Start with Parse in parse.go, then Evaluate in evaluate.go.
package policy
