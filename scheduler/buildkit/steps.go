package buildkit

import (
	"bytes"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

const (
	// maxSteps and maxText limit the replicated steps of an attempt, in steps and in bytes of one
	// text. The log holds all of it.
	maxSteps = 100
	maxText  = 200
	// tailBytes and tailLines limit how much of the last output of a step is kept.
	tailBytes = 4 << 10
	tailLines = 10
)

// step is one vertex of the solve.
type step struct {
	name               string
	number             int // order of starting, from 1; 0 before the start
	startedAt, endedAt time.Time
	cached             bool
	err                string
	reported           bool // its end is printed
	lastBatch          int  // number of the last report with output of it
	transfers          map[string]time.Time
	streams            map[int]*logs.Redactor // by number of the stream
	clipped            map[int]*clipped       // streams of which the daemon has left out output
	tail               []byte                 // redacted
	cut                bool                   // tail begins within the output
}

// keep appends output to the tail of a step.
func (s *step) keep(data []byte) {
	if len(data) > tailBytes {
		data, s.tail, s.cut = data[len(data)-tailBytes:], s.tail[:0], true
	}
	if s.tail = append(s.tail, data...); len(s.tail) > 2*tailBytes {
		s.tail, s.cut = append(s.tail[:0], s.tail[len(s.tail)-tailBytes:]...), true
	}
}

// lines returns the last lines of output of a step. It redacts secrets first and then truncates
// each line.
func (s *step) lines(redact func(string) string) []string {
	tail := s.tail
	if s.cut { // part of a line may be part of a secret, which redact would not match
		_, tail, _ = bytes.Cut(tail, []byte("\n"))
	}
	if tail = bytes.TrimSpace(tail); len(tail) == 0 {
		return nil
	}
	all := strings.Split(redact(string(tail)), "\n")
	if len(all) > tailLines {
		all = all[len(all)-tailLines:]
	}
	for i, l := range all {
		all[i] = clip(strings.TrimRight(l, "\r"))
	}
	return all
}

// stepView is the part of a step that errors need.
type stepView struct {
	name string
	tail []string
}

// pulls reports whether the step pulls a base image.
func (v stepView) pulls() bool {
	return strings.Contains(v.name, "] FROM ") || strings.HasPrefix(v.name, "[internal] load metadata for ")
}

// fetches reports whether the step loads a git context.
func (v stepView) fetches() bool { return strings.HasPrefix(v.name, loadGit) }

// clip truncates a text to maxText bytes of valid UTF-8.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}
