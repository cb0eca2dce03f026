package buildkit

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"

	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// recorder is a sink.
type recorder struct {
	bytes.Buffer
	steps []*imagebuilderv1.Step
}

func (*recorder) Offset() int64                        { return 0 }
func (*recorder) Held() int64                          { return 0 }
func (*recorder) Flush(context.Context) error          { return nil }
func (*recorder) Running()                             {}
func (r *recorder) Steps(steps []*imagebuilderv1.Step) { r.steps = steps }

// Test_Progress_TheEndOfAStepComesAfterItsOutput replays the reports of a daemon: the end of a step
// arrives in the middle of one of its lines, together with the end of another step.
func Test_Progress_TheEndOfAStepComesAfterItsOutput(t *testing.T) {
	start := time.Unix(1700000000, 0)
	end := start.Add(1500 * time.Millisecond)
	run := func(completed *time.Time) *client.Vertex {
		return &client.Vertex{Digest: "run", Name: "[2/2] RUN yes", Started: &start, Completed: completed}
	}
	log := func(text string) []*client.VertexLog {
		return []*client.VertexLog{{Vertex: "run", Data: []byte(text), Timestamp: start.Add(time.Second)}}
	}
	reports := []*client.SolveStatus{
		{Vertexes: []*client.Vertex{{Digest: "from", Name: "[1/2] FROM a", Started: &start, Completed: &end, Cached: true}, run(nil)}},
		{Logs: log("one\ntw")},
		{Vertexes: []*client.Vertex{run(&end), {Digest: "x", Name: "exporting to image", Started: &start, Completed: &end}}, Logs: log("o\nthr")},
		{Logs: log("ee\nno line end")},
	}
	ch := make(chan *client.SolveStatus, len(reports))
	for _, r := range reports {
		ch <- r
	}
	close(ch)
	var r recorder
	p := newProgress(&r, logs.NewPatterns(nil, nil))
	p.begin(func(error) { t.Error("cancelled") })
	p.follow(context.Background(), ch)
	want := `#1 [1/2] FROM a
#2 [2/2] RUN yes
#1 CACHED
#2 1.000 one
#2 1.000 two
#3 exporting to image
#2 1.000 three
#3 DONE 1.5s
#2 1.000 no line end
#2 DONE 1.5s
`
	if diff := cmp.Diff(want, r.String()); diff != "" {
		t.Error(diff)
	}
	if len(r.steps) != 3 || !r.steps[0].Cached || r.steps[1].EndedAt.AsTime() != end.UTC() {
		t.Errorf("steps %v", r.steps)
	}
}
