// Package verify checks a running cluster of image builders from outside, while
// it is used and while somebody breaks it.
//
// Run drives load: clients on all nodes ask for builds, attach, cancel, read
// and follow logs through reconnects. All that they asked and were answered is
// Evidence. Judge looks at evidence alone and says which promises it breaks; it
// can be saved and judged again.
//
// The packages beside it: history judges calls, porcupine included.
package verify
