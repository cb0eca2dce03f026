// Package history records the calls of concurrent clients of the image builder, and judges
// afterwards whether a correct service could have responded like this.
//
// A Recorder records the calls while faults happen. Check and Judge examine the finished History in
// two ways. First, plain functions check invariants of every build and every response: one build
// per request id, an end for every acknowledged build, terminal phases that do not change, reads
// that are as fresh as they promise. Then porcupine searches, ref by ref, for a linearization: an
// order of all calls, each at a moment between its start and its end, in which a sequential model
// of the service (after builds/apply_create.go and builds/apply_stop.go) gives the same responses.
//
// The package calls no service. The caller drives the service and passes what it observed.
package history
