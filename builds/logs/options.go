package logs

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options configure a store.
type Options struct {
	// Dir is where the segments lie. It is created if it is missing. One
	// process at a time may use it; the caller sees to that.
	Dir string
	// SegmentBytes is the size at which a new segment begins; 8 MiB if zero.
	SegmentBytes int64
	// MaxBytes is the limit of one log; what is beyond is dropped after a line
	// that says so. 256 MiB if zero.
	MaxBytes int64
	// SyncInterval is how long output is gathered before it is fsynced; 5 ms
	// if zero.
	SyncInterval time.Duration
	// FS is the file system; the operating system's if nil.
	FS         FS
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = 5 * time.Millisecond
	}
	if o.FS == nil {
		o.FS = diskFS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
