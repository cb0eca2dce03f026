// Package logs stores the logs of build attempts on the disk of a node. A log is a series of
// append-only segment files with checksummed records. Output is redacted before it is written, and
// readers see it once it is fsynced on all copies of the log.
//
// A log has two positions. The offset counts the bytes that clients see. The raw offset counts the
// bytes of the workload's output before redaction, so that a new owner knows where to continue. The
// redactor holds nothing back at the end of a record, so both positions are exact there.
//
// The package does not know builds and their state, and contains no gRPC. It does not decide who
// may write a log: the caller passes an epoch, and a log refuses writers of an older epoch.
package logs
