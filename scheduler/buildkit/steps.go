package buildkit

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// maxSteps and maxText bound what is replicated about the steps of an
	// attempt; the log has all of it.
	maxSteps = 100
	maxText  = 200
	// tailBytes and tailLines bound what is kept of a step's last output.
	tailBytes = 4 << 10
	tailLines = 10
)

// step is one vertex of the solve.
type step struct {
	name           string
	number         int // in the order of starting, 0 before
	started, ended time.Time
	cached         bool
	err            string
	said           bool // that it ended
	spoke          int  // report with its last output
	transfers      map[string]time.Time
	tail           []byte
	cut            bool // tail lacks what came before
}

// keep remembers the end of a step's output.
func (s *step) keep(data []byte) {
	if len(data) > tailBytes {
		data, s.tail, s.cut = data[len(data)-tailBytes:], s.tail[:0], true
	}
	if s.tail = append(s.tail, data...); len(s.tail) > 2*tailBytes {
		s.tail, s.cut = append(s.tail[:0], s.tail[len(s.tail)-tailBytes:]...), true
	}
}

// lines answers the last lines of a step's output, each cut to a sane width once
// secrets are out of it.
func (s *step) lines(redact func(string) string) []string {
	tail := s.tail
	if s.cut { // a part of a line may be a part of a secret
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

// stepView is what errors need to know of a step.
type stepView struct {
	name string
	tail []string
}

// pulls reports whether the step fetches a base image.
func (v stepView) pulls() bool {
	return strings.Contains(v.name, "] FROM ") || strings.HasPrefix(v.name, "[internal] load metadata for ")
}

// step answers the step with that digest, else the first one that failed, else
// a nameless one.
func (p *progress) step(digest string) stepView {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.byID[digest]
	if i := slices.IndexFunc(p.steps, func(s *step) bool { return s.err != "" }); st == nil && i >= 0 {
		st = p.steps[i]
	}
	if st == nil {
		return stepView{name: "the build"}
	}
	return stepView{name: clip(st.name), tail: st.lines(p.redact)}
}

// fetches reports whether the step loads a git context.
func (v stepView) fetches() bool { return strings.HasPrefix(v.name, loadGit) }

// report renders the steps that started; those of BuildKit's own only if they
// failed. Of too many, the last ones.
func (p *progress) report() []*imagebuilderv1.Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*imagebuilderv1.Step
	for _, st := range p.steps {
		if strings.HasPrefix(st.name, "[internal]") && st.err == "" {
			continue
		}
		s := &imagebuilderv1.Step{Name: clip(st.name), StartedAt: timestamppb.New(st.started), Cached: st.cached, Error: clip(p.redact(st.err))}
		if !st.ended.IsZero() {
			s.EndedAt = timestamppb.New(st.ended)
		}
		out = append(out, s)
	}
	return out[max(0, len(out)-maxSteps):]
}

// clip cuts a text to maxText bytes of valid UTF-8.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}
