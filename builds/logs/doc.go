// Package logs keeps the logs of attempts on the disk of a node: append-only
// segment files of checksummed records, redacted before they are written,
// visible to readers once they are fsynced.
//
// Every log has two positions. The offset counts what clients see; the raw
// offset counts the workload's output before redaction, so that whoever takes
// a log over knows where to go on. A record ends where the redactor remembers
// nothing, so that both positions of its end are exact.
//
// What never lives here: builds and their state, gRPC, who may write which
// log. The caller names the epoch; a log refuses writers of an older one.
package logs
