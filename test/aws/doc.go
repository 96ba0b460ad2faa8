// Package aws calls every operation of the services around a mesh as their users do,
// with boto3 and the AWS CLI, and beside it a copy of AWS that this project did not
// write (moto), and compares what both answered.
//
// A scenario in testdata is the calls of one service. What differs stands with its
// reason in testdata/differs.txt; docs/aws-services.md is made of the results.
package aws
