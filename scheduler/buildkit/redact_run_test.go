package buildkit_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Run_InterleavedSecretsAreRedacted prints secrets in several encodings on both streams of
// parallel steps: 24,000 times, and 1,000,000 times with SOAK. Each print is redacted before the
// output of the steps is merged, and nothing else is.
func Test_Run_InterleavedSecretsAreRedacted(t *testing.T) {
	const steps, streams = 4, 2
	prints := 24_000
	if testkit.Soak() {
		prints = 1_000_000
	}
	token := "hunter2/s3cr3t+t0k3n="
	forms := []string{token, base64.StdEncoding.EncodeToString([]byte(token)), url.QueryEscape(token)}
	each := prints / (steps * streams * len(forms))
	var dockerfile, last strings.Builder
	r := newRig(t)
	for i := range steps { // each with another command, because BuildKit merges equal steps
		fmt.Fprintf(&dockerfile, "FROM %s AS s%d\nCOPY forms /forms\n", r.base, i)
		dockerfile.WriteString("RUN --mount=type=secret,id=token set -e; a=$(cat /run/secrets/token); { read b; read c; } < /forms; " +
			fmt.Sprintf("p() { i=0; while [ $i -lt %d ]; do echo \"-$a\"; echo \"-$b\"; echo \"-$c\"; i=$((i+1)); done; }; ", each) +
			fmt.Sprintf("p & p >&2; wait; echo %d > /done\n", i))
		fmt.Fprintf(&last, "COPY --from=s%d /done /done%d\n", i, i)
	}
	dockerfile.WriteString("FROM " + r.base + "\n" + last.String())
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile.String(), "forms": forms[1] + "\n" + forms[2] + "\n"})
	w.Secrets.Build = map[string][]byte{"token": []byte(token)}
	_, s := r.mustRun(t, w)
	text := s.text()
	for _, f := range forms {
		for i := 0; i+8 <= len(f); i++ {
			if at := strings.Index(text, f[i:i+8]); at >= 0 {
				t.Fatalf("the output shows %q: %q", f[i:i+8], text[max(0, at-200):min(len(text), at+200)])
			}
		}
	}
	// The end of a step may be reported before the last of its output, so that a print has two parts.
	want := each * steps * streams * len(forms)
	if n := strings.Count(text, "[redacted]"); n < want || n > want+steps*streams {
		t.Errorf("%d parts of the output are redacted, want %d", n, want)
	}
}
