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

// ringBytes is the size of the daemon's ring: it holds the last of the output from the first gap on.
const ringBytes = 256 << 10

// maxLast is how many bytes of the last output are compared with the end of the ring.
const maxLast = 4 << 10

// clipped is a stream of which the daemon has left out output. At the end of the step, the daemon
// sends its ring, even if it sends all output again by then. The ring may begin within a secret,
// and repeats the last output.
type clipped struct {
	open   bool   // no line has ended since a gap
	last   []byte // the end of the last output
	length int    // of the last output
}

// repeats reports whether data is the ring. Other output that ends like the output before it also
// counts as the ring.
func (c *clipped) repeats(data []byte) bool {
	return len(data) == ringBytes || c.length > 0 && len(data) > c.length && bytes.HasSuffix(data, c.last)
}

// receive records output.
func (c *clipped) receive(data []byte) {
	c.last, c.length = bytes.Clone(data[max(len(data)-maxLast, 0):]), len(data)
}

// end ends the last line of the output before the ring. out is the rest of that output.
func (c *clipped) end(out []byte) []byte {
	if len(c.last) > 0 && c.last[len(c.last)-1] != '\n' {
		out = append(out, '\n')
	}
	return out
}
