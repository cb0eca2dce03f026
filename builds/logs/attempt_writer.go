package logs

import "context"

// AttemptWriter writes the log of a live attempt. Only the owner of the attempt has one.
type AttemptWriter interface {
	// Write appends output of the workload, which is redacted before it is stored.
	Write(raw []byte) (int, error)
	// RawOffset returns the position in the output of the workload, before redaction.
	RawOffset() int64
	// Held returns the part of RawOffset that every next owner would find.
	Held() int64
	// Reposition makes the next output begin at another position in the output of the workload.
	// Below feature level 5 it does nothing.
	Reposition(raw int64) error
	// Marker appends a line of the service itself.
	Marker(line string) error
	// Redact removes the secrets of the build from a text about the attempt.
	Redact(text string) string
	// Flush waits until the next owner would find everything that was written.
	Flush(ctx context.Context) error
	// Seal ends the log and returns its length and checksum. With an error it returns those of the
	// part that is kept.
	Seal(ctx context.Context) (length int64, checksum string, err error)
	// Feed returns the replication of the log, or nil if this node holds the only copy.
	Feed() *Feed
	// Close ends the replication.
	Close()
}
