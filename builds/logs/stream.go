package logs

import "context"

// Stream is a reader of one log, wherever the log is stored.
type Stream interface {
	// Next blocks until there are more bytes. It returns io.EOF at the end of a complete log. The
	// caller must not change the chunk.
	Next(ctx context.Context) (chunk []byte, offset int64, err error)
	// Length returns the length of the log up to which Next does not block, in bytes.
	Length() int64
	Close() error
}
