package buildkit

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// Test_Redact_ClippedThenResumed receives output of a daemon that leaves out output, goes on later, and
// sends the last of the output at the end of the step again (flushBuffer), beginning within a secret.
func Test_Redact_ClippedThenResumed(t *testing.T) {
	const resumed = "the rest of a line\nresumed\n"
	for cut := 1; cut+8 <= len(secret); cut++ {
		first := secret[cut:] + "\n" + "TOKEN=" + secret + "\n"
		for name, ring := range map[string]string{
			"short":       first + resumed,
			"full":        first + strings.Repeat("x", ringBytes-len(first)-len(resumed)-1) + "\n" + resumed,
			"of one line": strings.Repeat("x", ringBytes-8) + secret[cut:cut+8],
		} {
			out := printed(t, secret, func(a, _ digest.Digest, at time.Time) []*client.SolveStatus {
				log := func(data string) *client.SolveStatus {
					return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte(data), Timestamp: at}}}
				}
				return []*client.SolveStatus{
					log("first\n[output clipped, log limit 200KiB/s reached]\n"), log(resumed), log(ring),
				}
			})
			if part := shown(out, secret); part != "" {
				t.Errorf("%s ring, cut after %d bytes: the output shows %q:\n%.2000s", name, cut, part, out)
			}
			if name != "of one line" && strings.Count(out, "resumed\n") != 2 {
				t.Errorf("%s ring, cut after %d bytes: the output after the gap is not there twice:\n%.2000s", name, cut, out)
			}
		}
	}
}

// Test_Redact_OutputAfterTheEndOfAStep_Switch receives the beginning of a secret at the end of a line,
// the end of the step, and a line such as those with which a printer changes the step.
func Test_Redact_OutputAfterTheEndOfAStep_Switch(t *testing.T) {
	out := printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
		log := func(v digest.Digest, data string) *client.SolveStatus {
			return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: v, Stream: 1, Data: []byte(data), Timestamp: at}}}
		}
		first := log(a, "TOKEN="+secret[:9]+"\n")
		first.Vertexes = []*client.Vertex{{Digest: a, Name: "[one 2/2] RUN make", Started: &at, Completed: &at}}
		return []*client.SolveStatus{first, log(b, "another line\n"), log(b, "another line\n"), log(a, "#12 ...\n")}
	})
	checkRedacted(t, out)
}
