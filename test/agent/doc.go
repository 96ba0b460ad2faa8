// Package agent shows what evermesh-agent withstands: the program as it ships, with real Envoys, while the tests kill,
// stop and replace what it needs, fill its disks, take write access away, move clocks, let its credentials end, and have
// the control plane be slow, talk nonsense or say nothing.
//
// Read it in this order. A proxy (proxy_test.go) is one evermesh-agent and the Envoy that it runs; its room
// (room_test.go) is what it sees of the machine: file systems of its own, small or read-only, and a network of its own.
// The control plane (control_test.go) is one listener that says a word. The rest are the faults, by what fails: Envoy,
// disks, clocks, credentials, the control plane, and the agent itself.
//
// What of this the parts of the agent withstand by themselves is shown beside them, in internal/agent.
package agent
