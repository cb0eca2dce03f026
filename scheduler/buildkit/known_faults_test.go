package buildkit

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// redacting is a sink that redacts its output, like the log of an attempt.
type redacting struct {
	recorder
	redactor *logs.Redactor
}

func (r *redacting) Write(p []byte) (int, error) {
	out, _ := r.redactor.Write(p)
	_, err := r.recorder.Write(out)
	return len(p), err
}

func (r *redacting) Flush(context.Context) error {
	out, _ := r.redactor.Flush()
	_, err := r.recorder.Write(out)
	return err
}

// printed returns the redacted output of two steps that run at the same time, a and b, whose output
// arrives in the given reports.
func printed(t testing.TB, secret string, reports func(a, b digest.Digest, at time.Time) []*client.SolveStatus) string {
	t.Helper()
	sink := &redacting{redactor: logs.NewRedactor([][]byte{[]byte(secret)}, nil)}
	p := newProgress(sink, sink.redactor.String)
	p.begin(func(err error) { t.Errorf("canceled: %v", err) })
	start := time.Unix(1_700_000_000, 0)
	a, b := digest.FromString("a"), digest.FromString("b")
	p.print(&client.SolveStatus{Vertexes: []*client.Vertex{
		{Digest: a, Name: "[one 2/2] RUN make", Started: &start}, {Digest: b, Name: "[two 2/2] RUN make", Started: &start},
	}})
	for _, r := range reports(a, b, start) {
		p.print(r)
	}
	if err := sink.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return sink.String()
}

const secret = "hunter2-s3cr3t-t0k3n"

// checkRedacted reports halves of the secret that are in the output.
func checkRedacted(t testing.TB, out string) {
	t.Helper()
	for _, half := range []string{secret[:9], secret[9:]} {
		if strings.Contains(out, half) {
			t.Errorf("the output shows %q, a half of the secret:\n%s", half, out)
		}
	}
}

// Test_KnownFault_TwoStepsCutASecret receives the output of one step in two pieces, as BuildKit sends
// it. The secret is at the border, and a line of another step is between the pieces.
func Test_KnownFault_TwoStepsCutASecret(t *testing.T) {
	knownfault.Run(t, "part 4: a line of another step cuts a secret", func(t knownfault.TB) {
		checkRedacted(t, printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
			return []*client.SolveStatus{{Logs: []*client.VertexLog{
				{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at},
				{Vertex: b, Stream: 1, Data: []byte("a line of the other step\n"), Timestamp: at},
				{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at},
			}}}
		}))
	})
}

// Test_KnownFault_StdoutAndStderrCutASecret writes a line to the standard error between the two pieces
// of a secret on the standard output of the same step.
func Test_KnownFault_StdoutAndStderrCutASecret(t *testing.T) {
	knownfault.Run(t, "part 4: a line on the standard error cuts a secret", func(t knownfault.TB) {
		checkRedacted(t, printed(t, secret, func(a, _ digest.Digest, at time.Time) []*client.SolveStatus {
			return []*client.SolveStatus{{Logs: []*client.VertexLog{
				{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at},
				{Vertex: a, Stream: 2, Data: []byte("a warning\n"), Timestamp: at},
				{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at},
			}}}
		}))
	})
}

// Test_KnownFault_TheEndOfAStepCutsASecret reports the end of another step between the two pieces of a
// secret.
func Test_KnownFault_TheEndOfAStepCutsASecret(t *testing.T) {
	knownfault.Run(t, "part 4: the end of another step cuts a secret", func(t knownfault.TB) {
		checkRedacted(t, printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
			return []*client.SolveStatus{
				{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at}}},
				{Vertexes: []*client.Vertex{{Digest: b, Name: "[two 2/2] RUN make", Started: &at, Completed: &at}}},
				{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at}}},
			}
		}))
	})
}
