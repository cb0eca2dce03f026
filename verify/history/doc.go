// Package history records what concurrent clients of the image builder asked
// for and were answered, and judges afterwards whether a correct service could
// have answered so.
//
// A Recorder takes the calls down while faults happen. Check and Judge look at
// the finished History in two ways. Plain functions want what has to hold of
// every build and every answer: one build per request id, an end for every
// acknowledged build, phases that stay once they are terminal, reads that are
// as fresh as they promised. Then porcupine looks, ref by ref, for one order of
// all calls, none moved out of its own time, that a sequential model of the
// service (after builds/apply_create.go and builds/apply_stop.go)
// would have answered alike.
//
// The package talks to no service: who drives one hands in what it saw.
package history
