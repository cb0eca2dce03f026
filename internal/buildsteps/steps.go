// Package buildsteps derives the steps of a build from its log while it runs: their times, their
// output, and whether they came from the cache. It does not display them; BuildKit's progressui can.
package buildsteps

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	bkclient "github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Steps are the steps of one build. Steps is not safe for concurrent use.
type Steps struct {
	changes bkclient.SolveStatus     // not yet returned by Take
	steps   map[int]*bkclient.Vertex // steps of the attempt by number; 0 has lines without a step
	started map[string]time.Time     // start of steps that ran before the log was read, by name
	attempt uint32
	line    []byte // last line, which may be incomplete
	shown   int    // bytes of its text that the display has
	other   string // name of step 0
	note    string // last message of the service in the log
	queue   *bkclient.Vertex
	publish *bkclient.Vertex
	failed  bool // a step of the attempt has reported an error
}

// New returns the steps of a build that is in the state b.
func New(b *imagebuilderv1.Build, now time.Time) *Steps {
	s := &Steps{steps: map[int]*bkclient.Vertex{}, started: map[string]time.Time{}, attempt: 1, other: "build"}
	if ref := b.GetSource().GetRef().GetRef(); ref != "" {
		s.other = "copy " + ref
	}
	if n := len(b.GetAttempts()); n > 0 {
		for _, st := range b.Attempts[n-1].GetSteps() {
			s.started[st.GetName()] = st.GetStartedAt().AsTime()
		}
	}
	if b.GetPhase() == imagebuilderv1.Phase_PHASE_QUEUED {
		s.queue = s.start("wait for a node", now)
	}
	return s
}

// Take returns the changes since the last call, or nil if there are none.
func (s *Steps) Take() *bkclient.SolveStatus {
	if len(s.changes.Vertexes)+len(s.changes.Logs) == 0 {
		return nil
	}
	changes := s.changes
	s.changes = bkclient.SolveStatus{}
	return &changes
}

// start adds a step with a printable name.
func (s *Steps) start(name string, at time.Time) *bkclient.Vertex {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, name)
	v := &bkclient.Vertex{Digest: digest.FromString(fmt.Sprintf("%d %d %s", s.attempt, len(s.steps), name)), Name: name, Started: &at}
	s.report(v)
	return v
}

// stop ends a running step, with an error unless err is empty. v may be nil.
func (s *Steps) stop(v *bkclient.Vertex, at time.Time, err string) {
	if v == nil || v.Completed != nil {
		return
	}
	v.Completed, v.Error = &at, err
	s.report(v)
}

// report adds a step to the changes. The display gets a copy, because it keeps it.
func (s *Steps) report(v *bkclient.Vertex) {
	c := *v
	s.changes.Vertexes = append(s.changes.Vertexes, &c)
}

// Phase takes another phase of the build. Waiting and publishing are steps without lines in the log.
func (s *Steps) Phase(b *imagebuilderv1.Build, now time.Time) {
	if b.Phase > imagebuilderv1.Phase_PHASE_QUEUED {
		s.stop(s.queue, now, "")
	}
	if b.Phase == imagebuilderv1.Phase_PHASE_PUSHING && s.publish == nil {
		s.publish = s.start("publish "+b.Ref, now)
	}
}

// End takes the end of the build. The lines without a step become the failed step if no step of a
// failed build has failed.
func (s *Steps) End(b *imagebuilderv1.Build, now time.Time) {
	s.endLine(now)
	if b.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED {
		s.stopAll(now, "")
		return
	}
	if !s.failed && b.Phase == imagebuilderv1.Phase_PHASE_FAILED {
		s.stop(s.steps[0], now, b.Message)
	}
	s.stopAll(now, context.Canceled.Error()) // the display shows it as CANCELED
}

// stopAll stops all running steps.
func (s *Steps) stopAll(now time.Time, err string) {
	s.stop(s.queue, now, err)
	s.stop(s.publish, now, err)
	for _, v := range s.steps {
		s.stop(v, now, err)
	}
}

// Log takes the next part of the log. A part of another attempt ends the steps of the previous one.
func (s *Steps) Log(c client.Chunk, now time.Time) {
	if c.Marker {
		s.note = string(c.Content)
		return
	}
	if c.Attempt != s.attempt {
		s.endLine(now)
		s.stopAll(now, context.Canceled.Error())
		s.attempt, s.publish, s.failed = c.Attempt, nil, false
		s.steps, s.started = map[int]*bkclient.Vertex{}, map[string]time.Time{}
		reason, _, _ := strings.Cut(strings.TrimSpace(s.note), "\n")
		s.stop(s.start(fmt.Sprintf("attempt %d begins, %s", c.Attempt, cmp.Or(reason, "the previous one has ended")), now), now, "")
	}
	for rest := c.Content; len(rest) > 0; {
		part, more, complete := bytes.Cut(rest, []byte("\n"))
		s.line, rest = append(s.line, part...), more
		if complete || len(s.line) > maxLine {
			s.endLine(now)
		}
	}
	s.output(now, "")
}

// maxLine is the length at which a line is processed before its end, in bytes.
const maxLine = 64 << 10

// Lines of BuildKit's plain output.
var (
	numbered   = regexp.MustCompile(`^#([1-9]\d{0,8}) (.*)$`)
	outputTime = regexp.MustCompile(`^\d+\.\d+ `)
	done       = regexp.MustCompile(`^DONE (\d+\.\d+)s$`)
)

// endLine processes the complete line, and empties it.
func (s *Steps) endLine(now time.Time) {
	if len(s.line) == 0 {
		return
	}
	defer func() { s.line, s.shown = s.line[:0], 0 }()
	m := numbered.FindStringSubmatch(string(s.line))
	if m == nil {
		s.output(now, "\n")
		return
	}
	n, _ := strconv.Atoi(m[1]) // the pattern matches only numbers
	v, text := s.steps[n], strings.TrimRight(m[2], "\r")
	switch {
	case v == nil:
		at, known := s.started[text]
		if !known {
			at = now
		}
		s.steps[n] = s.start(text, at)
	case text == "CACHED":
		v.Cached = true
		s.stop(v, *v.Started, "")
	case done.MatchString(text):
		took, _ := time.ParseDuration(strings.TrimPrefix(text, "DONE "))
		s.stop(v, v.Started.Add(took), "")
	case strings.HasPrefix(text, "ERROR: "):
		s.failed = true
		s.stop(v, now, cmp.Or(strings.TrimPrefix(text, "ERROR: "), "failed"))
	default:
		s.output(now, "\n")
	}
}

// output shows the part of the line that is not shown yet, if it is the output of a step, or a line
// without a step. end is the line end of a complete line, else empty.
func (s *Steps) output(now time.Time, end string) {
	n, text := 0, string(s.line)
	if m := numbered.FindStringSubmatch(text); m != nil {
		n, _ = strconv.Atoi(m[1])
		text = m[2]
		head := outputTime.FindString(text)
		if s.steps[n] == nil || head == "" && end == "" {
			return // the rest of the line may report the state of the step
		}
		text = text[len(head):]
	} else if strings.HasPrefix(text, "#") && end == "" || len(text) == 0 {
		return
	}
	if n == 0 && s.steps[0] == nil {
		s.steps[0] = s.start(s.other, now)
	}
	v := s.steps[n]
	if data := text[min(s.shown, len(text)):] + end; data != "" {
		s.changes.Logs = append(s.changes.Logs, &bkclient.VertexLog{Vertex: v.Digest, Data: []byte(data), Timestamp: now})
	}
	s.shown = len(text)
}
