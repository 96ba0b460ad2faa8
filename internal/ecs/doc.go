// Package ecs reads task definitions of Amazon ECS and makes of them what runs here: the same definition with this product's
// image and control plane in it, a Compose file for Docker hosts, or the variables of interception and agent for a plain host.
//
// Read it in this order. [Read] makes [Definition]s of a file; [Definition.Adapt] makes the smallest change with which one
// works ([Change]); [Definition.Check] says what would keep it from working ([Problem]); [Definition.Compose] and
// [Definition.Env] turn it into other forms. What a task definition for App Mesh has to look like is in the user guide, Getting
// started with Amazon ECS, step 6 (ECS-001 to ECS-020).
//
// It is pure: nothing is asked, and nothing is written.
package ecs
