package logs

import (
	"log/slog"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Key identifies the log of one attempt.
type Key struct {
	Build   string
	Attempt uint32
}

var validBuild = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// Options configures a store.
type Options struct {
	// Dir is the directory of the segments. Open creates it if it is missing.
	Dir string
	// SegmentBytes is the size at which a new segment begins; 8 MiB if zero.
	SegmentBytes int64
	// MaxBytes is the limit of one log. Output beyond it is dropped after a line that says so. 256
	// MiB if zero.
	MaxBytes int64
	// SyncInterval is how long output is collected before it is fsynced; 5 ms if zero.
	SyncInterval time.Duration
	// Grown is called for each replicated log that has more durable bytes. It must not block. May
	// be nil.
	Grown func(Key)
	// Extended reports whether all nodes know the records and the appends of feature level 5:
	// incarnations of copies, and positions in the source. Nil means that they do.
	Extended func() bool
	// FS is the file system; that of the operating system if nil.
	FS         FS
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}
