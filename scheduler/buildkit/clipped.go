package buildkit

import "bytes"

// A daemon without BUILDKIT_STEP_LOG_MAX_SIZE=-1 and BUILDKIT_STEP_LOG_MAX_SPEED=-1 leaves out output
// of a step, anywhere in a line. It appends clipBegin, the limit and clipEnd to the output before the
// gap (util/progress/logs of BuildKit).
var (
	clipBegin = []byte("\n[output clipped, log limit ")
	clipEnd   = []byte(" reached]\n")
)

// maxClipLimit is the greatest length of the limit in the line, in bytes.
const maxClipLimit = 40

// beforeGap returns the output before a gap and the line about the gap, or no line if the output
// ends without a gap.
func beforeGap(data []byte) (before, line []byte) {
	at := bytes.LastIndex(data, clipBegin)
	if at < 0 || !bytes.HasSuffix(data, clipEnd) || len(data)-at > len(clipBegin)+maxClipLimit+len(clipEnd) {
		return data, nil
	}
	return data[:at], data[at:]
}

// afterGap returns the output from the second line after a gap on. The first line may begin within a
// secret.
func afterGap(data []byte) (rest []byte, found bool) {
	_, rest, found = bytes.Cut(data, []byte("\n"))
	return rest, found
}
