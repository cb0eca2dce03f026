package follow

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

// liveSteps makes steps of a log as it arrives. Not safe for concurrent use.
type liveSteps struct {
	news    bkclient.SolveStatus     // what take answers
	steps   map[int]*bkclient.Vertex // of the attempt, by number; 0 is what no step said
	begun   map[string]time.Time     // when steps began that ran before the log was read, by name
	attempt uint32
	line    []byte // the last one, which may not have ended
	shown   int    // bytes of its text that the display has
	other   string // name of step 0
	note    string // what the service said last; the end of the build is told otherwise
	queue   *bkclient.Vertex
	publish *bkclient.Vertex
	failed  bool // a step of the attempt has told its error
	over    bool
}

func newLiveSteps(b *imagebuilderv1.Build, now time.Time) *liveSteps {
	s := &liveSteps{steps: map[int]*bkclient.Vertex{}, begun: map[string]time.Time{}, attempt: 1, other: "build"}
	if ref := b.GetSource().GetRef().GetRef(); ref != "" {
		s.other = "copy " + ref
	}
	if n := len(b.GetAttempts()); n > 0 {
		for _, st := range b.Attempts[n-1].GetSteps() {
			s.begun[st.GetName()] = st.GetStartedAt().AsTime()
		}
	}
	if b.GetPhase() == imagebuilderv1.Phase_PHASE_QUEUED {
		s.queue = s.start("wait for a node", now)
	}
	return s
}

// take answers what is new, nil if nothing is.
func (s *liveSteps) take() *bkclient.SolveStatus {
	if len(s.news.Vertexes)+len(s.news.Logs) == 0 {
		return nil
	}
	news := s.news
	s.news = bkclient.SolveStatus{}
	return &news
}

func (s *liveSteps) start(name string, at time.Time) *bkclient.Vertex {
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, name)
	v := &bkclient.Vertex{Digest: digest.FromString(fmt.Sprintf("%d %d %s", s.attempt, len(s.steps), name)), Name: name, Started: &at}
	s.tell(v)
	return v
}

// stop ends a step that runs, where err is not empty with that error.
func (s *liveSteps) stop(v *bkclient.Vertex, at time.Time, err string) {
	if v == nil || v.Completed != nil {
		return
	}
	v.Completed, v.Error = &at, err
	s.tell(v)
}

// tell gives the display a copy: it keeps what it gets.
func (s *liveSteps) tell(v *bkclient.Vertex) {
	c := *v
	s.news.Vertexes = append(s.news.Vertexes, &c)
}

func (s *liveSteps) phase(b *imagebuilderv1.Build, now time.Time) {
	if b.Phase > imagebuilderv1.Phase_PHASE_QUEUED {
		s.stop(s.queue, now, "")
	}
	if b.Phase == imagebuilderv1.Phase_PHASE_PUSHING && s.publish == nil {
		s.publish = s.start("publish "+b.Ref, now)
	}
}

// end ends all that still runs.
func (s *liveSteps) end(b *imagebuilderv1.Build, now time.Time) {
	s.endLine(now)
	s.over = true
	if b.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED {
		s.stopAll(now, "")
		return
	}
	if !s.failed && b.Phase == imagebuilderv1.Phase_PHASE_FAILED {
		s.stop(s.steps[0], now, b.Message)
	}
	s.stopAll(now, context.Canceled.Error()) // which the display knows
}

func (s *liveSteps) stopAll(now time.Time, err string) {
	s.stop(s.queue, now, err)
	s.stop(s.publish, now, err)
	for _, v := range s.steps {
		s.stop(v, now, err)
	}
}

// log takes the next part of the log.
func (s *liveSteps) log(c client.Chunk, now time.Time) {
	if c.Marker {
		s.note = string(c.Content)
		return
	}
	if c.Attempt != s.attempt {
		s.endLine(now)
		s.stopAll(now, context.Canceled.Error())
		s.attempt, s.publish, s.failed = c.Attempt, nil, false
		s.steps, s.begun = map[int]*bkclient.Vertex{}, map[string]time.Time{}
		why, _, _ := strings.Cut(strings.TrimSpace(s.note), "\n")
		s.stop(s.start(fmt.Sprintf("attempt %d begins, %s", c.Attempt, cmp.Or(why, "the one before has ended")), now), now, "")
	}
	for rest := c.Content; len(rest) > 0; {
		part, more, ended := bytes.Cut(rest, []byte("\n"))
		s.line, rest = append(s.line, part...), more
		if ended || len(s.line) > maxLine {
			s.endLine(now)
		}
	}
	s.output(now, "")
}

// maxLine bounds what is kept of a line that does not end.
const maxLine = 64 << 10

var (
	numbered = regexp.MustCompile(`^#([1-9]\d{0,8}) (.*)$`)
	spoken   = regexp.MustCompile(`^\d+\.\d+ `)
	done     = regexp.MustCompile(`^DONE (\d+\.\d+)s$`)
)

// endLine takes the line as a whole.
func (s *liveSteps) endLine(now time.Time) {
	if len(s.line) == 0 {
		return
	}
	defer func() { s.line, s.shown = s.line[:0], 0 }()
	m := numbered.FindStringSubmatch(string(s.line))
	if m == nil {
		s.output(now, "\n")
		return
	}
	n, _ := strconv.Atoi(m[1]) // the pattern sees to it
	v, text := s.steps[n], strings.TrimRight(m[2], "\r")
	switch {
	case v == nil:
		at, known := s.begun[text]
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

// output shows what is new of the line, if a step wrote it or nobody did.
func (s *liveSteps) output(now time.Time, end string) {
	n, text := 0, string(s.line)
	if m := numbered.FindStringSubmatch(text); m != nil {
		n, _ = strconv.Atoi(m[1])
		text = m[2]
		head := spoken.FindString(text)
		if s.steps[n] == nil || head == "" && end == "" {
			return // it may yet turn out to be news of the step
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
		s.news.Logs = append(s.news.Logs, &bkclient.VertexLog{Vertex: v.Digest, Data: []byte(data), Timestamp: now})
	}
	s.shown = len(text)
}
