package buildsteps

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bkclient "github.com/moby/buildkit/client"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// shownSteps renders the changes that a display gets.
func shownSteps(s *Steps) (out []string) {
	names := map[string]string{}
	for st := s.Take(); st != nil; st = s.Take() {
		for _, v := range st.Vertexes {
			names[v.Digest.String()] = v.Name
			switch {
			case v.Completed == nil:
				out = append(out, "begin "+v.Name)
			case v.Error == context.Canceled.Error():
				out = append(out, "cancelled "+v.Name)
			case v.Error != "":
				out = append(out, "error "+v.Name+": "+v.Error)
			case v.Cached:
				out = append(out, "cached "+v.Name)
			default:
				out = append(out, fmt.Sprintf("end %s %s", v.Name, v.Completed.Sub(*v.Started)))
			}
		}
		for _, l := range st.Logs {
			out = append(out, fmt.Sprintf("log %q", l.Data))
		}
	}
	return out
}

func Test_Steps(t *testing.T) {
	now := time.Unix(1000, 0)
	running := &imagebuilderv1.Build{Phase: imagebuilderv1.Phase_PHASE_RUNNING}
	text := func(s string) client.Chunk { return client.Chunk{Attempt: 1, Content: []byte(s)} }
	end := func(p imagebuilderv1.Phase) func(*Steps) {
		return func(s *Steps) { s.End(&imagebuilderv1.Build{Phase: p, Message: "why"}, now) }
	}
	for title, c := range map[string]struct {
		chunks []client.Chunk
		then   func(*Steps)
		want   []string
	}{
		"a step that is done": {
			chunks: []client.Chunk{text("#1 [1/2] FROM x\n#1 DONE 1.5s\n")},
			want:   []string{"begin [1/2] FROM x", "end [1/2] FROM x 1.5s"},
		},
		"a cached step, cut into pieces": {
			chunks: []client.Chunk{text("#"), text("1 [1/2] FR"), text("OM x\n#1 CA"), text("CHED\n")},
			want:   []string{"begin [1/2] FROM x", "cached [1/2] FROM x"},
		},
		"output is shown before its line ends": {
			chunks: []client.Chunk{text("#1 RUN x\n#1 0.1"), text("23 hel"), text("lo\n")},
			want:   []string{"begin RUN x", `log "hel"`, `log "lo\n"`},
		},
		"output that looks like news of a step is output": {
			chunks: []client.Chunk{text("#1 RUN x\n#1 0.123 CACHED\n#1 0.123 #1 DONE 0.1s\n")},
			want:   []string{"begin RUN x", `log "CACHED\n"`, `log "#1 DONE 0.1s\n"`},
		},
		"control characters of a name do not reach the terminal": {
			chunks: []client.Chunk{text("#1 RUN \x1b[2J\n")},
			want:   []string{"begin RUN ?[2J"},
		},
		"a failure": {
			chunks: []client.Chunk{text("#1 RUN x\n#2 RUN y\n#1 ERROR: exit code 7\n")},
			then:   end(imagebuilderv1.Phase_PHASE_FAILED),
			want:   []string{"begin RUN x", "begin RUN y", "error RUN x: exit code 7", "cancelled RUN y"},
		},
		"a failed copy": {
			chunks: []client.Chunk{text("manifest sha256:1\n")},
			then:   end(imagebuilderv1.Phase_PHASE_FAILED),
			want:   []string{"begin build", `log "manifest sha256:1\n"`, "error build: why"},
		},
		"another attempt": {
			chunks: []client.Chunk{text("#1 RUN x\n"), {Attempt: 1, Content: []byte("attempt 1 failed\n"), Marker: true}, {Attempt: 2, Content: []byte("#1 RUN x\n")}},
			then:   end(imagebuilderv1.Phase_PHASE_SUCCEEDED),
			want:   []string{"begin RUN x", "cancelled RUN x", "begin attempt 2 begins, attempt 1 failed", "end attempt 2 begins, attempt 1 failed 0s", "begin RUN x", "end RUN x 0s"},
		},
	} {
		t.Run(title, func(t *testing.T) {
			s := New(running, now)
			var got []string
			for _, ch := range c.chunks {
				s.Log(ch, now)
				got = append(got, shownSteps(s)...)
			}
			if c.then != nil {
				c.then(s)
				got = append(got, shownSteps(s)...)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Test_Steps_JoinedLate checks that the start of a running step comes from the state of the build.
func Test_Steps_JoinedLate(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &imagebuilderv1.Build{Phase: imagebuilderv1.Phase_PHASE_RUNNING, Attempts: []*imagebuilderv1.Attempt{{
		Steps: []*imagebuilderv1.Step{{Name: "RUN x", StartedAt: timestamppb.New(now.Add(-time.Minute))}},
	}}}
	s := New(b, now)
	s.Log(client.Chunk{Attempt: 1, Content: []byte("#1 RUN x\n")}, now)
	var v *bkclient.Vertex
	if st := s.Take(); st != nil {
		v = st.Vertexes[0]
	}
	if v == nil || !v.Started.Equal(now.Add(-time.Minute)) {
		t.Errorf("the step: %+v", v)
	}
}
