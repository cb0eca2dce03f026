// Package verify checks a running cluster of image builders from outside, under load and while
// faults are injected.
//
// Run generates the load: clients on all nodes request builds, attach to builds, cancel them, read
// their status, list them, and follow logs through reconnects. Evidence contains all requests and
// responses. Judge reports the promises that the evidence breaks. It needs nothing but the evidence,
// which can be saved and judged again.
//
// The package does not inject faults itself; Faults receives announcements of them. Package history
// checks the calls, with porcupine among others.
package verify
