package buildkit

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/image-builder-ha/image-builder/builds/logs"
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
	secrets := logs.NewPatterns([][]byte{[]byte(secret)}, nil)
	sink := &redacting{redactor: secrets.Redactor()}
	p := newProgress(sink, secrets)
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

// Test_Redact_TwoStepsCutASecret receives the output of one step in two pieces, as BuildKit sends it.
// The secret is at the border, and a line of another step is between the pieces.
func Test_Redact_TwoStepsCutASecret(t *testing.T) {
	checkRedacted(t, printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
		return []*client.SolveStatus{{Logs: []*client.VertexLog{
			{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at},
			{Vertex: b, Stream: 1, Data: []byte("a line of the other step\n"), Timestamp: at},
			{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at},
		}}}
	}))
}

// Test_Redact_StdoutAndStderrCutASecret writes a line to the standard error between the two pieces of
// a secret on the standard output of the same step.
func Test_Redact_StdoutAndStderrCutASecret(t *testing.T) {
	checkRedacted(t, printed(t, secret, func(a, _ digest.Digest, at time.Time) []*client.SolveStatus {
		return []*client.SolveStatus{{Logs: []*client.VertexLog{
			{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at},
			{Vertex: a, Stream: 2, Data: []byte("a warning\n"), Timestamp: at},
			{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at},
		}}}
	}))
}

// Test_Redact_TheEndOfAStepCutsASecret reports the end of another step between the two pieces of a
// secret.
func Test_Redact_TheEndOfAStepCutsASecret(t *testing.T) {
	checkRedacted(t, printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
		return []*client.SolveStatus{
			{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:9]), Timestamp: at}}},
			{Vertexes: []*client.Vertex{{Digest: b, Name: "[two 2/2] RUN make", Started: &at, Completed: &at}}},
			{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte(secret[9:] + "\n"), Timestamp: at}}},
		}
	}))
}

// Test_Redact_OutputAfterTheEndOfAStep reports the end of a step, and reports without output of it,
// between the two pieces of a secret.
func Test_Redact_OutputAfterTheEndOfAStep(t *testing.T) {
	for cut := range secret {
		out := printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
			other := &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: b, Stream: 1, Data: []byte("another line\n"), Timestamp: at}}}
			return []*client.SolveStatus{
				{
					Vertexes: []*client.Vertex{{Digest: a, Name: "[one 2/2] RUN make", Started: &at, Completed: &at}},
					Logs:     []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte("TOKEN=" + secret[:cut]), Timestamp: at}},
				},
				other, other,
				{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte(secret[cut:] + "\n"), Timestamp: at}}},
				other,
			}
		})
		if part := shown(out, secret); part != "" {
			t.Errorf("cut after %d bytes, the output shows %q:\n%s", cut, part, out)
		}
	}
}

// Test_Redact_Clipped receives output of a daemon that leaves out output within a secret. The daemon
// sends the last of the output at the end of the step.
func Test_Redact_Clipped(t *testing.T) {
	for cut := range secret {
		out := printed(t, secret, func(a, b digest.Digest, at time.Time) []*client.SolveStatus {
			log := func(data string) *client.SolveStatus {
				return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: a, Stream: 1, Data: []byte(data), Timestamp: at}}}
			}
			return []*client.SolveStatus{
				log("first " + secret + "\nTOKEN=" + secret[:cut] + "\n[output clipped, log limit 2MiB reached]\n"),
				{Logs: []*client.VertexLog{{Vertex: b, Stream: 1, Data: []byte("another line\n"), Timestamp: at}}},
				log(secret[cut:]), log(secret[:3]), log(secret[3:] + "\nlast " + secret[:5]), log(secret[5:] + " of all\n"),
			}
		})
		if part := shown(out, secret); part != "" {
			t.Errorf("cut after %d bytes, the output shows %q:\n%s", cut, part, out)
		}
		for _, want := range []string{"first [redacted]\n", "TOKEN=", "\n[output clipped, log limit 2MiB reached]\n", "another line\n", "last [redacted] of all\n"} {
			if !strings.Contains(regexp.MustCompile(`(?m)^#\d+ \d+\.\d+ `).ReplaceAllString(out, ""), want) {
				t.Errorf("cut after %d bytes, the output lacks %q:\n%s", cut, want, out)
			}
		}
	}
}

// shown returns 8 bytes of a secret that are in the output, or "".
func shown(out, secret string) string {
	for i := 0; i+8 <= len(secret); i++ {
		if strings.Contains(out, secret[i:i+8]) {
			return secret[i : i+8]
		}
	}
	return ""
}

// Test_Redact_AnyCut prints secrets in several encodings on both streams of several steps. The
// reports cut the output anywhere. No 8 bytes of a secret are in the output, in the last lines of a
// step, and in the reports of steps, and all other output is there.
func Test_Redact_AnyCut(t *testing.T) {
	key := "{\n  \"key\": \"0123456789abcdefghij\",\n  \"pass\": \"correct-horse-battery\"\n}"
	plain := []string{"hunter2-s3cr3t-t0k3n", "swordfish/with+signs=", key}
	var values [][]byte
	var forms []string
	for _, s := range plain {
		values = append(values, []byte(s))
		forms = append(forms, s, url.QueryEscape(s), base64.StdEncoding.EncodeToString([]byte(s)), base64.URLEncoding.EncodeToString([]byte("u:"+s)))
	}
	secrets := logs.NewPatterns(values, nil)
	at := time.Unix(1_700_000_000, 0)
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		sink := &redacting{redactor: secrets.Redactor()}
		p := newProgress(sink, secrets)
		p.begin(func(err error) { t.Errorf("canceled: %v", err) })
		type source struct {
			step   digest.Digest
			stream int
			left   string
		}
		var sources []*source
		begin := &client.SolveStatus{}
		words := map[string]bool{}
		for step := range 3 {
			d := digest.FromString(strconv.Itoa(step))
			begin.Vertexes = append(begin.Vertexes, &client.Vertex{Digest: d, Name: "[x] RUN echo " + plain[0], Started: &at})
			for stream := range 2 {
				var b strings.Builder
				for i := range 1 + rnd.IntN(12) {
					word := fmt.Sprintf("<%d.%d.%d>", step, stream, i)
					words[word] = true
					b.WriteString(word + forms[rnd.IntN(len(forms))] + []string{"", "\n", "\r\n"}[rnd.IntN(3)])
				}
				sources = append(sources, &source{d, stream + 1, b.String()})
			}
		}
		reports := []*client.SolveStatus{begin}
		for len(sources) > 0 {
			r := &client.SolveStatus{}
			for range 1 + rnd.IntN(6) {
				if len(sources) == 0 {
					break
				}
				i := rnd.IntN(len(sources))
				s := sources[i]
				n := min(1+rnd.IntN(40), len(s.left))
				r.Logs = append(r.Logs, &client.VertexLog{Vertex: s.step, Stream: s.stream, Data: []byte(s.left[:n]), Timestamp: at})
				if s.left = s.left[n:]; s.left == "" {
					sources = slices.Delete(sources, i, i+1)
				}
			}
			if rnd.IntN(8) == 0 {
				end := begin.Vertexes[rnd.IntN(3)]
				end.Completed, end.Error = &at, "exit code 1: "+plain[1]
				r.Vertexes = append(r.Vertexes, end)
			}
			reports = append(reports, r)
		}
		ch := make(chan *client.SolveStatus, len(reports))
		for _, r := range reports {
			ch <- r
		}
		close(ch)
		p.follow(t.Context(), ch)
		if err := sink.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := sink.String()
		for _, v := range begin.Vertexes {
			st := p.step(string(v.Digest))
			all += st.name + strings.Join(st.tail, "\n")
		}
		for _, s := range sink.steps {
			all += s.Name + s.Error
		}
		for _, f := range forms {
			for _, line := range strings.Split(f, "\n") {
				if part := shown(all, strings.TrimSpace(line)); part != "" {
					t.Fatalf("seed %d: the output shows %q:\n%s", seed, part, all)
				}
			}
		}
		// A mark, or a line of another step, may be within a word.
		rest := regexp.MustCompile(`\n#\d+ (\d+\.\d+ )?`).ReplaceAllString(sink.String(), "")
		if n := strings.Count(rest, "<"); n != len(words) {
			t.Fatalf("seed %d: %d of %d words are left:\n%s", seed, n, len(words), sink.String())
		}
	}
}
