package podapi

const (
	// SpoolSegmentBytes is the amount of output that a worker drops at once.
	SpoolSegmentBytes = 4 << 20
	// minSpoolBytes is the least amount of output that a worker keeps. The output that the owner
	// can acknowledge may be up to 4 MiB behind, once the limit of the log is reached
	// (logs.Writer.Held), and further behind while the beginning of a large secret is held back.
	// There must also be room for one more segment.
	minSpoolBytes = 16 << 20
)

// SpoolLimit returns the amount of output, in bytes, that the worker keeps before the build blocks.
func (j *Job) SpoolLimit() int64 { return max(j.SpoolBytes, minSpoolBytes) }

// SpoolMayBeFull reports whether so much output is not acknowledged that the build may block. It is
// always true while the build blocks: then the worker cannot drop a whole segment.
func (j *Job) SpoolMayBeFull(unacknowledged int64) bool {
	return unacknowledged > j.SpoolLimit()-SpoolSegmentBytes
}
