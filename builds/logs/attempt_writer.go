package logs

import "context"

// AttemptWriter is the log of a live attempt. Its owner alone writes it.
type AttemptWriter interface {
	Write(raw []byte) (int, error)
	RawOffset() int64
	// Marker adds a line of the service's own.
	Marker(line string) error
	// Redact takes the build's secrets out of a text about the attempt.
	Redact(text string) string
	// Flush waits until a next owner would find all that was written.
	Flush(ctx context.Context) error
	// Seal ends the log and answers its length and checksum. On an error they
	// are those of what is kept.
	Seal(ctx context.Context) (length int64, checksum string, err error)
	// Feed is the copying of the log.
	Feed() *Feed
	// Close ends the copying.
	Close()
}
