// Package compat shows that clients which this project did not write work with
// it as they did with AWS: the SDK for Go, boto3 and the AWS CLI. Each tells the
// same story (story_test.go) of all 38 operations and their errors, and is made
// to do what is refused (refusals_test.go), against a running evermeshd. The two
// errors that it cannot be brought to are in errors_test.go.
package compat
